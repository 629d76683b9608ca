"""Environments. Importing this package registers `rulka/Race-v0` and loads no heavy library."""

import gymnasium

RACE_ID = "rulka/Race-v0"

if RACE_ID not in gymnasium.registry:
    gymnasium.register(
        id=RACE_ID,
        entry_point="rl.envs.sim.environment:RaceEnv",
        vector_entry_point="rl.envs.sim.vector_environment:RaceVectorEnv",
    )
