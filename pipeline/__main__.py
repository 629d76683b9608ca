"""`python -m pipeline` is `rulka-pipeline`."""

import sys

from pipeline.cli import main

sys.exit(main())
