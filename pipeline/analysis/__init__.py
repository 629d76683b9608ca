"""Reading back what runs of stage 3 logged: columns, tables, curves and pictures."""
