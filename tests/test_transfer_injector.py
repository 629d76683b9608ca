"""Injection: exact or refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from datasets.contract.errors import UserError
from datasets.contract.floats import CLOCK
from datasets.contract.minirace import MINI_RACE_ACTIONS
from rl.network.iqn import IQN, PARTS, midpoint_taus
from rl.transfer.artifacts import Tensors, save_artifacts
from rl.transfer.injector import inject
from rl.transfer.load_policy import greedy_agreement, load_policy
from rl.transfer.metadata import META_FILE
from rl.transfer.sources import Sources, find_sources
from tests.network_helpers import observations, small_config
from tests.transfer_helpers import save, tensors_of

N = 5


def sources_of(folder: Path, **paths: Any) -> Sources:
    sources = find_sources(None if paths else folder, **paths)
    assert sources is not None
    return sources


def state(network: IQN) -> Tensors:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: Tensors, second: Tensors) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def all_clock_values() -> tuple[Tensor, Tensor]:
    frames, floats = observations(2 * MINI_RACE_ACTIONS)
    floats[:, CLOCK] = torch.arange(MINI_RACE_ACTIONS).repeat(2)
    return frames, floats


def test_a_whole_network_is_copied_to_online_and_target(tmp_path: Path) -> None:
    trained, online, target = (IQN(small_config()) for _ in range(3))
    save(tmp_path, trained, "iqn_bc.pt")
    report = inject(online, [target], sources_of(tmp_path))
    assert same(state(online), state(trained))
    assert same(state(target), state(trained))
    assert report.whole_policy


def test_greedy_actions_equal_the_imitated_ones_at_all_clock_values(tmp_path: Path) -> None:
    trained, online = IQN(small_config()).eval(), IQN(small_config()).eval()
    save(tmp_path, trained, "iqn_bc.pt")
    inject(online, [], sources_of(tmp_path))
    frames, floats = all_clock_values()
    taus = midpoint_taus(1, N)
    logits = trained.A_head(trained.mixed(trained.features(frames, floats), taus)).mean(dim=1)
    greedy = online.q_values(frames, floats, taus).argmax(dim=1)
    assert torch.equal(greedy, logits.argmax(dim=1))


def test_a_head_without_floats_is_padded_to_the_same_function(tmp_path: Path) -> None:
    trained = IQN(small_config(floats={"enabled": False})).eval()
    online = IQN(small_config()).eval()
    fresh = state(online)
    save(tmp_path, trained, "encoder.pt", "actions_head.pt")
    report = inject(online, [], sources_of(tmp_path))
    assert report.whole_policy
    advantage = next(part for part in report.parts if part.part == "advantage")
    assert advantage.zero_padded == ("A_head.0.weight",)
    frames, floats = all_clock_values()
    taus = midpoint_taus(1, N)
    before = trained.A_head(trained.mixed(trained.features(frames, floats), taus))
    after = online.A_head(online.mixed(online.features(frames, floats), taus))
    torch.testing.assert_close(after, before, atol=1e-5, rtol=1e-5)
    assert torch.equal(after.mean(dim=1).argmax(1), before.mean(dim=1).argmax(1))
    image = online.image_features
    assert torch.equal(state(online)["iqn_fc.0.weight"][image:], fresh["iqn_fc.0.weight"][image:])


def test_gradients_reach_padded_columns(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config(floats={"enabled": False})), "encoder.pt", "actions_head.pt")
    online = IQN(small_config())
    inject(online, [], sources_of(tmp_path))
    torch.autograd.backward(online(*observations(), midpoint_taus(1, N))[..., 2].sum())
    gradient = online.A_head.first.weight.grad
    assert gradient is not None
    assert bool((gradient[:, online.image_features :].abs().sum(dim=0) > 0).all())


def test_a_network_without_images_is_padded_on_the_other_side(tmp_path: Path) -> None:
    trained = IQN(small_config(use_image_head=False)).eval()
    online = IQN(small_config()).eval()
    save(tmp_path, trained, "iqn_bc.pt")
    report = inject(online, [], sources_of(tmp_path))
    frames, floats = observations()
    taus = midpoint_taus(1, N)
    torch.testing.assert_close(
        online(frames, floats, taus), trained(frames, floats, taus), atol=1e-5, rtol=1e-5
    )
    assert report.whole_policy


@pytest.mark.parametrize(
    ("files", "label"),
    [
        (("encoder.pt",), "partial"),
        (("actions_head.pt",), "partial"),
        (("encoder.pt", "actions_head.pt"), "partial"),
        (("encoder.pt", "actions_head.pt", "float_head.pt"), "whole policy"),
    ],
)
def test_the_label_says_whether_the_policy_is_whole(
    tmp_path: Path, files: tuple[str, ...], label: str
) -> None:
    trained, online = IQN(small_config()), IQN(small_config())
    fresh = state(online)
    save(tmp_path, trained, *files)
    report = inject(online, [], sources_of(tmp_path))
    assert report.label == label
    loaded = {name for file in files for name in tensors_of(trained, file)}
    for name, tensor in online.state_dict().items():
        expected = trained.state_dict()[name] if name in loaded else fresh[name]
        assert torch.equal(tensor, expected), name


def test_parts_of_two_runs_are_not_a_whole_policy(tmp_path: Path) -> None:
    save(tmp_path / "a", IQN(small_config()), "encoder.pt", "float_head.pt")
    save(tmp_path / "b", IQN(small_config()), "actions_head.pt")
    sources = sources_of(
        tmp_path,
        encoder_path=tmp_path / "a",
        float_head_path=tmp_path / "a" / "float_head.pt",
        actions_head_path=tmp_path / "b",
    )
    assert inject(IQN(small_config()), [], sources).label == "partial"


def test_only_the_wanted_parts_are_loaded(tmp_path: Path) -> None:
    trained = IQN(small_config())
    online = IQN(small_config(decoder={"layer_norm": True, "zero_init_last": True}))
    save(tmp_path, trained, "iqn_bc.pt")
    report = inject(online, [], sources_of(tmp_path), parts=("vis", "floats", "iqn"))
    assert report.label == "partial"
    assert torch.equal(state(online)["iqn_fc.0.weight"], state(trained)["iqn_fc.0.weight"])
    assert not bool(online.A_head.last.weight.any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("A_head.2.bias"), r"A_head\.2\.bias is missing"),
        (lambda t: t.update({"A_head.4.bias": torch.zeros(3)}), r"A_head\.4\.bias is not a tensor"),
        (
            lambda t: t.update({"A_head.2.bias": torch.zeros(13)}),
            r"shape \(13,\), expected \(12,\)",
        ),
        (lambda t: t.update({"B_head.2.bias": torch.zeros(3)}), "holds B_head"),
        (lambda t: [t.pop(k) for k in list(t) if k.startswith("V_head")], "V_head is missing"),
        (
            lambda t: t.update({"A_head.0.weight": t["A_head.0.weight"][:, :-1]}),
            r"A_head\.0\.weight has shape",
        ),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_wrong_tensor_is_refused_and_nothing_changes(
    tmp_path: Path, change: Any, message: str, legacy: bool
) -> None:
    trained, online, target = (IQN(small_config()) for _ in range(3))
    tensors = tensors_of(trained, "iqn_bc.pt")
    change(tensors)
    if legacy:
        torch.save(tensors, tmp_path / "iqn_bc.pt")
    else:
        files = {"iqn_bc.pt": tensors}
        save_artifacts(tmp_path, files, stage="bc", run_name="r", network=trained.config)
    before = state(online), state(target)
    with pytest.raises(UserError, match=message):
        inject(online, [target], _sources(tmp_path, legacy))
    assert same(state(online), before[0])
    assert same(state(target), before[1])


def _sources(folder: Path, legacy: bool) -> Sources:
    sources = find_sources(folder, legacy_input="iqn" if legacy else None)
    assert sources is not None
    return sources


@pytest.mark.parametrize(
    ("sections", "key"),
    [
        ({"image_size": [37, 38]}, "image_size"),
        ({"decoder": {"dense_hidden_dimension": 24}}, "dense_hidden_dimension"),
        ({"decoder": {"layer_norm": True}}, "layer_norm"),
        ({"iqn": {"embedding_dimension": 9}}, "embedding_dimension"),
        ({"vis": {"cnn": {"arch": "impala", "channels": [2, 3]}}}, "cnn"),
        ({"floats": {"hidden_dimension": 8}}, "floats"),
        (
            {"floats": {"enabled": False}},
            r"no float_feature_extractor \(nn\.floats\.enabled is false",
        ),
        ({"use_image_head": False}, r"no img_head \(nn\.use_image_head is false"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, sections: dict[str, Any], key: str) -> None:
    save(tmp_path, IQN(small_config()), "iqn_bc.pt")
    with pytest.raises(UserError, match=key):
        inject(IQN(small_config(**sections)), [], sources_of(tmp_path))


def test_an_encoder_of_another_image_size_is_refused_though_it_would_fit(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config(image_size=40)), "encoder.pt")
    with pytest.raises(UserError, match=r"image_size is \[40, 40\] there, \[36, 38\] here"):
        inject(IQN(small_config()), [], sources_of(tmp_path))


def test_a_folder_prefers_the_whole_network(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "iqn_bc.pt", "encoder.pt", "actions_head.pt")
    sources = sources_of(tmp_path)
    assert {a.path.name for a in sources.parts.values()} == {"iqn_bc.pt"}
    assert sources.parts.keys() == PARTS.keys()


def test_a_folder_and_a_path_exclude_each_other(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt")
    with pytest.raises(UserError, match="exclude each other"):
        find_sources(tmp_path, encoder_path=tmp_path / "encoder.pt")


def test_two_sources_of_one_part_are_refused(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt", "iqn_bc.pt")
    with pytest.raises(UserError, match="both hold img_head"):
        find_sources(encoder_path=tmp_path, bc_heads_path=tmp_path)


def test_a_file_stands_for_itself(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt", "actions_head.pt")
    sources = find_sources(tmp_path / "encoder.pt")
    assert sources is not None
    assert sources.parts.keys() == {"vis"}


def test_rates_of_a_report_are_those_of_each_part(tmp_path: Path) -> None:
    online = IQN(small_config(decoder={"advantage": {"lr_scale": 0.5}}))
    save(tmp_path, IQN(small_config()), "iqn_bc.pt")
    sources = sources_of(tmp_path)
    reports = {0.0: inject(online, [], sources), 0.2: inject(online, [], sources, base_lr=0.2)}
    for base, report in reports.items():
        rates = {p.part: p.learning_rate for p in report.parts}
        assert rates["advantage"] == 0.5 * base
        assert rates["vis"] == base


@pytest.mark.parametrize(("lost", "more"), [(4, ""), (5, " and 1 more"), (6, " and 2 more")])
def test_a_refusal_names_four_tensors_and_counts_the_others(
    tmp_path: Path, lost: int, more: str
) -> None:
    trained = IQN(small_config())
    tensors = tensors_of(trained, "encoder.pt")
    for name in list(tensors)[:lost]:
        del tensors[name]
    options: dict[str, Any] = {"stage": "vis", "run_name": "test", "network": trained.config}
    save_artifacts(tmp_path, {"encoder.pt": tensors}, **options)
    with pytest.raises(UserError) as refused:
        inject(IQN(small_config()), [], sources_of(tmp_path))
    assert str(refused.value).count("is missing") == 4
    assert f"is missing{more}; nothing was loaded" in str(refused.value)


def test_the_table_folds_long_names_and_keeps_parts_and_hashes_in_one_piece(
    tmp_path: Path,
) -> None:
    save(tmp_path, IQN(small_config()), "iqn_bc.pt")
    report = inject(IQN(small_config()), [], sources_of(tmp_path))
    console = Console(width=80, record=True)
    console.print(report.table())
    text = console.export_text()
    for part in report.parts:
        assert part.module in text
        assert part.sha256 is not None
        assert part.sha256[:8] in text
    assert "…" not in text


def test_folders_without_artifacts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no artifacts here"):
        find_sources(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_sources(tmp_path / "absent")
    assert find_sources() is None


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt")
    with pytest.raises(UserError, match="not a file for pretrain_actions_head_path"):
        find_sources(actions_head_path=tmp_path / "encoder.pt")


def test_a_legacy_head_on_bare_features_is_partial(tmp_path: Path) -> None:
    trained = IQN(small_config(floats={"enabled": False}))
    for file in ("encoder.pt", "actions_head.pt"):
        tensors = tensors_of(trained, file)
        torch.save({k: t for k, t in tensors.items() if "iqn" not in k}, tmp_path / file)
    online = IQN(small_config())
    report = inject(online, [], _sources(tmp_path, legacy=True))
    assert report.label == "partial"
    assert report.legacy_input == "iqn"
    image = online.image_features
    assert torch.equal(online.A_head.first.weight[:, :image], trained.A_head.first.weight)
    assert not bool(online.A_head.first.weight[:, image:].any())


def test_a_legacy_encoder_on_unit_range_frames_is_folded(tmp_path: Path) -> None:
    trained, online = IQN(small_config()), IQN(small_config())
    torch.save(tensors_of(trained, "encoder.pt"), tmp_path / "encoder.pt")
    sources = find_sources(encoder_path=tmp_path, legacy_input="01")
    assert sources is not None
    inject(online, [], sources)
    frames, _ = observations()
    assert trained.img_head is not None
    assert online.img_head is not None
    expected = trained.img_head(frames.float() / 255)
    got = online.img_head((frames.float() - 128) / 128)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_the_report_lists_each_part(tmp_path: Path) -> None:
    trained = IQN(small_config(floats={"enabled": False}))
    sections = {"vis": {"freeze": True, "lr_scale": 0.5}}
    save(tmp_path, trained, "encoder.pt", "actions_head.pt")
    online = IQN(small_config(vis={**sections["vis"], "cnn": {"channels": [2, 3, 4, 5]}}))
    report = inject(online, [], sources_of(tmp_path), base_lr=0.01).with_agreement(0.1, 1.0)
    plain = json.loads(json.dumps(report.to_json()))
    by_part = {part["part"]: part for part in plain["parts"]}
    assert by_part.keys() == PARTS.keys()
    assert by_part["vis"]["frozen"] is True
    assert by_part["vis"]["learning_rate"] == pytest.approx(0.005)
    assert by_part["vis"]["source"].endswith("encoder.pt")
    assert by_part["floats"]["source"] is None
    meta = json.loads((tmp_path / META_FILE).read_text())
    assert by_part["iqn"]["sha256"] == meta["sha256"]["actions_head.pt"]
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(report.table())
    shown = capture.get()
    assert "whole policy" in shown
    assert "100.0% after" in shown
    assert "A_head.0.weight" in shown


def test_a_policy_is_loaded_as_the_network_that_it_was(tmp_path: Path) -> None:
    trained = IQN(small_config(floats={"enabled": False})).eval()
    save(tmp_path, trained, "encoder.pt", "actions_head.pt")
    policy = load_policy(tmp_path)
    assert not policy.training
    assert policy.config == trained.config
    frames, floats = observations(16)
    assert greedy_agreement(policy, trained, frames, floats, midpoint_taus(1, N), chunk=5) == 1.0


def test_a_part_cannot_drive(tmp_path: Path) -> None:
    save(tmp_path, IQN(small_config()), "encoder.pt")
    with pytest.raises(UserError, match="hold only img_head"):
        load_policy(tmp_path)
