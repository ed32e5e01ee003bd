"""Re-initialising layers: every tensor in one stage, exactly the chosen stages changed, the original untouched."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from covidnet.base.errors import SettingError
from covidnet.models.backbones import Backbone
from covidnet.models.classifier import Classifier, build_classifier
from covidnet.models.heads import AnomalyHead, LinearHead
from covidnet.models.inputs import CHEST_SPEC, IMAGENET_SPEC
from covidnet.models.randomisation import Cascade, randomised, stages, with_random_head
from tests.refusals import refused

DENSENET = "head denseblock4 transition3 denseblock3 transition2 denseblock2 transition1 denseblock1 conv0"
STAGES = {
    "densenet121": DENSENET.split(),
    "resnet18": ["head", "layer4", "layer3", "layer2", "layer1", "conv1"],
    "cnn": ["head", "9", "6", "3", "0"],
    "resnet8": ["head", "5", "4", "3", "0"],
    "covidnet_cxr": ["head", "stages.3", "stages.2", "stages.1", "stages.0", "stem"],
}
"""Of every network that is quick to build, as its article orders its parts."""

JOINED = {
    "densenet121": {"norm0": "conv0", "norm5": "denseblock4"},
    "resnet18": {"bn1": "conv1"},
    "cnn": {"1": "0", "4": "3", "7": "6", "10": "9"},
    "resnet8": {"1": "0"},
    "covidnet_cxr": {},
}
"""Normalisation and the stage that it goes with."""


def trained(name: str, channels: int | None = None) -> Classifier:
    """A network whose every tensor is unlike that of a new one."""
    torch.manual_seed(1)
    made = build_classifier(name, freeze=False, standardise=True)
    if channels is not None:
        made.backbone.features.conv0 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        made.backbone.spec = CHEST_SPEC
    with torch.no_grad():
        for value in tensors(made).values():
            if value.is_floating_point():
                value.mul_(1.5).add_(0.25)
            else:
                value.add_(9)
    return made


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def stage_of(name: str, key: str, known: list[str]) -> str:
    """The stage of a tensor by its name, from the tables above."""
    if key.startswith("head."):
        return "head"
    inner = key.removeprefix("backbone.features.")
    parts = {**{stage: stage for stage in known if stage != "head"}, **JOINED.get(name, {})}
    (found,) = [stage for part, stage in parts.items() if inner.startswith(f"{part}.")]
    return found


@pytest.fixture(scope="module", params=list(STAGES))
def network(request: pytest.FixtureRequest) -> tuple[str, Classifier]:
    return request.param, trained(request.param)


def test_stages_run_from_the_head_to_the_first_layer(network: tuple[str, Classifier]) -> None:
    name, classifier = network
    assert list(stages(classifier)) == STAGES[name]


def test_the_cascade_changes_exactly_the_stages_down_to_the_chosen_one(network: tuple[str, Classifier]) -> None:
    name, classifier = network
    before = tensors(classifier)
    known = STAGES[name]
    for at in sorted({0, 1, len(known) // 2, len(known) - 1}):
        stage = known[at]
        after = tensors(randomised(classifier, stage))
        assert after.keys() == before.keys()
        same = {key for key in before if torch.equal(before[key], after[key])}
        # By the tables every tensor has exactly one stage; all of a chosen one are unlike what they were.
        assert same == {key for key in before if known.index(stage_of(name, key, known)) > at}


def test_a_stage_gets_the_same_values_however_far_the_cascade_goes(network: tuple[str, Classifier]) -> None:
    name, classifier = network
    known = STAGES[name]
    all_of_it = tensors(randomised(classifier, known[-1]))
    two = tensors(randomised(classifier, known[1]))
    for key, value in two.items():
        if known.index(stage_of(name, key, known)) <= 1:
            assert torch.equal(value, all_of_it[key]), key


def test_one_cascade_gives_the_network_of_every_stage_in_turn(network: tuple[str, Classifier]) -> None:
    name, classifier = network
    before = {key: value.clone() for key, value in tensors(classifier).items()}
    cascade = Cascade(classifier, 3)
    # Stages may be left out, as those whose maps are stored.
    for stage in (STAGES[name][0], STAGES[name][2], STAGES[name][2], STAGES[name][-1]):
        made, expected = cascade.down_to(stage), tensors(randomised(classifier, stage, 3))
        assert not made.training
        for key, value in tensors(made).items():
            assert torch.equal(value, expected[key]), key
    for key, value in tensors(classifier).items():
        assert torch.equal(value, before[key]), key
    with pytest.raises(ValueError, match=f"stage {STAGES[name][1]} comes before {STAGES[name][-1]}"):
        cascade.down_to(STAGES[name][1])


def test_random_weights_of_the_same_seed_come_out_changed(network: tuple[str, Classifier]) -> None:
    name, _ = network
    torch.manual_seed(0)
    drawn = build_classifier(name, weights="random", weights_seed=0, freeze=False)
    after = tensors(randomised(drawn, STAGES[name][-1], seed=0))
    weights = {key: value for key, value in tensors(drawn).items() if value.ndim > 1}
    assert not [key for key, value in weights.items() if torch.equal(value, after[key])]


def test_running_statistics_and_gains_are_those_of_a_new_layer(network: tuple[str, Classifier]) -> None:
    name, classifier = network
    made = randomised(classifier, STAGES[name][-1])
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert not norm.running_mean.any()
        assert bool((norm.running_var == 1).all())
        assert int(norm.num_batches_tracked) == 0
        assert norm.weight is None or bool((norm.weight == 1).all())


def test_the_same_seed_gives_the_same_values_and_another_seed_others() -> None:
    classifier = trained("resnet8")
    torch.manual_seed(5)
    one = tensors(randomised(classifier, "0", seed=0))
    torch.manual_seed(6)
    two = tensors(randomised(classifier, "0", seed=0))
    other = tensors(randomised(classifier, "0", seed=1))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    assert not [key for key, value in one.items() if value.ndim > 1 and torch.equal(value, other[key])]


def test_the_draw_is_that_of_the_networks_own_maker() -> None:
    """Torchvision's DenseNet draws from a normal law of variance 2 / inputs; a convolution's own reset is uniform."""
    made = randomised(trained("densenet121"), "conv0")
    found = made.backbone.features.conv0.weight.detach()
    inputs = 3 * 7 * 7
    assert float(found.std()) == pytest.approx(math.sqrt(2 / inputs), rel=0.05)
    assert float(found.abs().max()) > 3 * math.sqrt(2 / inputs)


def test_a_one_channel_densenet_is_drawn_too() -> None:
    classifier = trained("densenet121", channels=1)
    before = tensors(classifier)
    assert list(stages(classifier)) == DENSENET.split()
    after = tensors(randomised(classifier, "conv0"))
    assert after["backbone.features.conv0.weight"].shape == (64, 1, 7, 7)
    assert not [key for key in before if torch.equal(before[key], after[key])]
    # The bound of a convolution's own reset.
    assert float(after["backbone.features.conv0.weight"].detach().abs().max()) <= 1 / 7
    # All but the first layer fit what the maker draws.
    whole = tensors(randomised(trained("densenet121"), "conv0"))
    assert [key for key in whole if not torch.equal(whole[key], after[key])] == ["backbone.features.conv0.weight"]


@pytest.mark.parametrize("frozen", [True, False])
def test_the_copy_is_its_own_and_the_original_stays(frozen: bool) -> None:
    classifier = Classifier(trained("resnet8").backbone, LinearHead(64, 3, standardise=True), frozen=frozen).train()
    before = copy.deepcopy(tensors(classifier))
    modes = [module.training for module in classifier.modules()]
    state = torch.get_rng_state()
    made = randomised(classifier, "3")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in classifier.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in tensors(classifier).items())
    places = {value.untyped_storage().data_ptr() for value in tensors(classifier).values()}
    assert places.isdisjoint({value.untyped_storage().data_ptr() for value in tensors(made).values()})
    assert made.frozen is frozen
    assert not any(module.training for module in made.modules())
    wanted = [value.requires_grad for value in classifier.parameters()]
    assert [value.requires_grad for value in made.parameters()] == wanted


def test_a_network_made_in_inference_mode_and_in_reduced_precision() -> None:
    with torch.inference_mode():
        classifier = build_classifier("cnn", freeze=False).to(torch.bfloat16).eval()
        made = randomised(classifier, "0")
    full = tensors(randomised(build_classifier("cnn", freeze=False), "0"))
    for key, value in tensors(made).items():
        assert not value.is_inference()
        assert torch.equal(value, full[key].to(value.dtype))


def test_every_part_of_a_head_is_drawn_anew() -> None:
    classifier = Classifier(trained("cnn").backbone, AnomalyHead(128, 3, standardise=True), frozen=False)
    with torch.no_grad():
        for value in tensors(classifier.head).values():
            value.add_(1)
    after = tensors(randomised(classifier, "head"))
    assert not [key for key, value in tensors(classifier).items() if "head." in key and torch.equal(value, after[key])]


def tiny(features: nn.Module, name: str = "tiny") -> Classifier:
    return Classifier(Backbone(features, 4, IMAGENET_SPEC, "random", name), LinearHead(4, 3), frozen=False)


@pytest.mark.parametrize("name", ["tiny", "densenet121"])
def test_a_network_that_is_not_known_is_drawn_by_its_layers_reset(name: str) -> None:
    classifier = tiny(nn.Sequential(OrderedDict(first=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 4, 3))), name)
    assert stages(classifier) == ("head", "last", "first")
    after = tensors(randomised(classifier, "last"))
    same = {key for key, value in tensors(classifier).items() if torch.equal(value, after[key])}
    assert same == {"backbone.features.first.weight", "backbone.features.first.bias"}
    assert float(after["backbone.features.last.weight"].detach().abs().max()) <= 1 / 6


def test_an_only_child_is_entered_and_a_first_normalisation_goes_with_the_layer_behind_it() -> None:
    inner = nn.Sequential(OrderedDict(norm=nn.BatchNorm2d(3), conv=nn.Conv2d(3, 4, 3), relu=nn.ReLU()))
    classifier = tiny(nn.Sequential(OrderedDict(inner=inner)))
    assert stages(classifier) == ("head", "inner.conv")
    with torch.no_grad():
        for value in tensors(classifier).values():
            value.add_(1)
    after = tensors(randomised(classifier, "inner.conv"))
    assert not [key for key, value in tensors(classifier).items() if torch.equal(value, after[key])]


def test_a_backbone_of_one_layer_is_one_stage() -> None:
    classifier = tiny(nn.Conv2d(3, 4, 3))
    assert stages(classifier) == ("head", "features")
    after = tensors(randomised(classifier, "features"))
    assert not [key for key, value in tensors(classifier).items() if torch.equal(value, after[key])]


def test_a_backbones_child_named_head_is_not_taken_for_the_head() -> None:
    classifier = tiny(nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 3), head=nn.Conv2d(4, 4, 1))))
    assert stages(classifier) == ("head", "features.head", "stem")
    after = tensors(randomised(classifier, "head"))
    assert torch.equal(after["backbone.features.head.weight"], classifier.backbone.features.head.weight)


def test_an_unknown_stage_is_refused() -> None:
    with refused("stage", "norm0", ("head", "5", "4", "3", "0")):
        randomised(trained("resnet8"), "norm0")


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, maps: Tensor) -> Tensor:
        return maps * self.scale


def test_weights_that_nothing_is_known_to_draw_are_refused_and_not_left() -> None:
    classifier = tiny(nn.Sequential(nn.Conv2d(3, 4, 3), Scale()))
    with pytest.raises(SettingError, match="reset_parameters"):
        randomised(classifier, "0")


def test_beheaded_is_the_same_backbone_below_the_head_of_every_stage() -> None:
    classifier = build_classifier("cnn", freeze=False, standardise=True).eval()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    made = with_random_head(classifier, 3)
    assert made.backbone is classifier.backbone
    assert not made.training
    for stage in stages(classifier):
        drawn = randomised(classifier, stage, 3).head.state_dict()
        assert all(torch.equal(value, drawn[name]) for name, value in made.head.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
