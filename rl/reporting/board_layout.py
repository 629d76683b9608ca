"""The layout of TensorBoard's page for custom scalars: the charts to look at first."""

from typing import Final

LAYOUT: Final = {
    "rulka": {
        "eval_race_time_robust": ["Multiline", ["Race/eval_race_time_robust"]],
        "explo_race_time_finished": ["Multiline", ["Race/explo_race_time_finished"]],
        "loss": ["Multiline", ["Training/loss$", "Training/loss_test$"]],
        "avg_Q": ["Multiline", ["RL/avg_Q"]],
        "single_zone_reached": ["Multiline", ["RL/single_zone_reached"]],
        "gradient norm before clipping": [
            "Multiline",
            [f"Gradients/norm_before_clip_{name}$" for name in ("median", "d98", "max")],
        ],
        "gradient norm after clipping": [
            "Multiline",
            [f"Gradients/norm_{name}$" for name in ("median", "d98", "max")],
        ],
        "reward and Munchausen": [
            "Multiline",
            [f"RL/mean_abs_{name}_of_batches$" for name in ("reward", "munchausen")],
        ],
        "priorities": [
            "Multiline",
            [f"Buffer/priorities_{name}$" for name in ("median", "mean", "c98", "max")],
        ],
        "policy age": ["Multiline", ["Performance/policy_age"]],
    }
}
"""Category -> chart -> kind and regular expressions, matched from a tag's beginning."""
