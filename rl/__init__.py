"""The racing environments, the IQN network, its learner, and the transfer of pretrained parts."""
