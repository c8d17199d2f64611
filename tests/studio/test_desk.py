"""A project with a model: names reach the checkpoint, survive kills, and follow a model trained again."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from il2vseg.base.errors import UserError
from il2vseg.base.images import decode_labels
from il2vseg.base.palette import default_palette
from il2vseg.evaluation.clicks import load_clicks
from il2vseg.models.checkpoint import load_checkpoint, rename_clusters
from il2vseg.studio.project import Footage, Project, Stale
from il2vseg.studio.studio import Studio

from .conftest import CLUSTERS, FRAMES, MakeStudio, do, write_model


def names(studio: Studio) -> list[str]:
    return list(studio.need_desk().naming.names)


def test_the_footage_says_what_it_is(studio: Studio) -> None:
    found = studio.state()["footage"]
    assert (found["total"], found["kept"], found["title"]) == (FRAMES + 1, FRAMES, "river")
    assert found["names"][0] == "frame_0"
    assert len(found["unreadable"]) == 1
    assert found["unreadable"][0].startswith("frame_9.jpg: ")


def test_cards_tell_shares_places_and_purity(studio: Studio) -> None:
    shown = studio.clusters()
    cards = shown["clusters"]
    assert [c["id"] for c in cards] == [0, 1, 2, 3]
    assert sum(c["share"] for c in cards) == pytest.approx(1, abs=1e-3)
    assert all(c["name"] is None and c["parent"] is None for c in cards)
    assert all(set(c["frames"]) <= set(range(FRAMES)) for c in cards)
    assert all(bool(c["frames"]) == (c["share"] > 0) for c in cards)
    assert shown["classes"] == []
    assert [c["color"] for c in cards] == [list(c) for c in default_palette(CLUSTERS)]


def test_names_are_offered_in_one_order_whatever_is_used(studio: Studio) -> None:
    before = studio.clusters()["suggested"]
    assert before[:3] == ["water", "sky", "obstacle"]
    do(studio, do="name", clusters=[0], name="obstacle")
    assert studio.clusters()["suggested"] == before


def test_a_name_reaches_checkpoint_and_names_yaml(studio: Studio) -> None:
    do(studio, do="name", clusters=[0, 2], name=" water ")
    do(studio, do="name", clusters=[1], name="unsure")
    assert load_checkpoint(studio.project.model).class_names == ["water", "unsure", "water", "class 3"]
    kept = yaml.safe_load((studio.project.model / "names.yaml").read_text())
    assert [c["name"] for c in kept["clusters"]] == ["water", "unsure", "water", "class 3"]
    shown = studio.clusters()
    assert shown["classes"][0]["color"] in ([41, 167, 224], [128, 128, 128])
    do(studio, do="undo")
    assert load_checkpoint(studio.project.model).class_names == ["water", "class 1", "water", "class 3"]


def test_a_division_is_a_cluster_more_and_undo_takes_it_back(studio: Studio) -> None:
    before = studio.clusters()["clusters"]
    largest = max(before, key=lambda c: c["share"])["id"]
    prototypes = studio.need_desk().naming.prototypes
    do(studio, do="divide", cluster=largest)
    after = studio.clusters()["clusters"]
    assert len(after) == CLUSTERS + 1
    assert after[-1]["parent"] == largest
    assert 0 < after[-1]["share"] < before[largest]["share"]
    checkpoint = load_checkpoint(studio.project.model)
    assert len(checkpoint.class_names) == CLUSTERS + 1
    do(studio, do="undo")
    assert [c["share"] for c in studio.clusters()["clusters"]] == [c["share"] for c in before]
    restored = load_checkpoint(studio.project.model)
    assert np.array_equal(restored.state_dict()["classifier.global_prototypes"].numpy(), prototypes)


def test_the_parts_of_a_division_lie_closer_than_the_whole(studio: Studio) -> None:
    surveyed = studio.need_desk().surveyed
    largest = max(studio.clusters()["clusters"], key=lambda c: c["share"])["id"]
    with torch.no_grad():
        inside = torch.cat([surveyed._embeddings(i, largest) for i in range(FRAMES)])
    parts = surveyed.divide(largest)
    assert torch.equal(parts, surveyed.divide(largest))
    whole = torch.nn.functional.normalize(inside.mean(0), dim=0)
    assert (inside @ parts.T).amax(1).mean() > (inside @ whole).mean() + 0.01


def test_a_cluster_that_is_too_small_is_not_divided(studio: Studio) -> None:
    with pytest.raises(UserError, match="too small"):
        do(studio, do="divide", cluster=0, parts=200)
    with pytest.raises(UserError, match="no cluster"):
        do(studio, do="divide", cluster=99)


def test_labels_are_those_that_the_model_predicts(studio: Studio) -> None:
    do(studio, do="name", clusters=[0, 1], name="water")
    model = load_checkpoint(studio.project.model)
    frame = studio.need_sample().frame(2)
    predicted = model.predict(torch.from_numpy(frame)[None])[0][0].numpy()
    shown = decode_labels(studio.need_desk().label_picture(2))
    # The frame was kept as JPEG, the tokens were rounded to half precision.
    assert (shown == predicted).mean() > 0.9


def test_a_studio_that_was_killed_goes_on_where_it_was(make_studio: MakeStudio) -> None:
    first = make_studio()
    do(first, do="name", clusters=[1], name="sky")
    do(first, do="divide", cluster=1)
    do(first, do="click", frame=2, x=0.5, y=0.5, name="sky", asked=True)
    checkpoint = first.project.model / "checkpoint.safetensors"
    written = checkpoint.stat().st_mtime_ns
    second = make_studio()
    assert checkpoint.stat().st_mtime_ns == written  # what was made of it stays up to date
    assert names(second) == names(first) == ["class 0", "sky", "class 2", "class 3", "sky"]
    assert len(second.clicks()["points"]) == 1
    do(second, do="undo")
    do(second, do="undo")
    assert names(second) == ["class 0", "sky", "class 2", "class 3"]


def test_what_was_decided_but_not_yet_written_is_written_later(make_studio: MakeStudio) -> None:
    first = make_studio()
    old = (first.project.model / "checkpoint.safetensors").read_bytes()
    do(first, do="divide", cluster=max(first.clusters()["clusters"], key=lambda c: c["share"])["id"])
    do(first, do="name", clusters=[4], name="boat")
    (first.project.model / "checkpoint.safetensors").write_bytes(old)  # killed before it came to that
    second = make_studio()
    assert names(second)[4] == "boat"
    assert load_checkpoint(second.project.model).class_names[4] == "boat"


def test_names_given_by_the_command_meanwhile_are_taken_over(make_studio: MakeStudio) -> None:
    first = make_studio()
    do(first, do="name", clusters=[0], name="water")
    rename_clusters(first.project.model, ["water", "sky", "class 2", "land"])
    assert names(make_studio()) == ["water", "sky", "class 2", "land"]


def test_a_model_trained_again_keeps_names_where_clusters_look_alike(make_studio: MakeStudio) -> None:
    first = make_studio()
    for k, name in enumerate(("water", "sky", "land", "boat")):
        do(first, do="name", clusters=[k], name=name)
    do(first, do="click", frame=1, x=0.2, y=0.5, name="sky", asked=False)
    model = first.project.model
    kept = load_checkpoint(model)
    shutil.rmtree(model)
    write_model(model)
    again = load_checkpoint(model)
    again.classifier.reorder(torch.tensor([2, 0, 3, 1]))
    again.classifier.set_prototypes(again.classifier.global_prototypes + 1e-3)
    from il2vseg.models.checkpoint import save_checkpoint

    save_checkpoint(model, again.classifier, again.spec)
    second = make_studio()
    present = [c["id"] for c in second.clusters()["clusters"] if c["share"] > 0]
    expected = ["land", "water", "boat", "sky"]
    assert present
    assert [names(second)[k] for k in present] == [expected[k] for k in present]
    assert len(second.clicks()["points"]) == 1
    assert kept.class_names == ["water", "sky", "land", "boat"]


def test_another_model_says_where_names_do_not_fit(make_studio: MakeStudio) -> None:
    first = make_studio()
    do(first, do="name", clusters=[0], name="water")
    shutil.rmtree(first.project.model)
    write_model(first.project.model, seed=5, clusters=3)
    second = make_studio()
    cards = second.clusters()["clusters"]
    assert len(cards) == 3
    assert all(c["name"] is not None or c["problem"] or c["share"] for c in cards)


def test_a_write_for_an_older_state_is_refused(studio: Studio) -> None:
    shown = studio.clusters()["revision"]
    studio.act(shown, {"do": "name", "clusters": [0], "name": "water"})
    with pytest.raises(Stale, match="elsewhere"):
        studio.act(shown, {"do": "name", "clusters": [0], "name": "sky"})
    assert names(studio)[0] == "water"


def test_an_old_page_does_not_write_over_a_model_trained_meanwhile(studio: Studio) -> None:
    write_model(studio.project.model, seed=3)
    trained = (studio.project.model / "checkpoint.safetensors").read_bytes()
    with pytest.raises(UserError, match="just changed"):
        do(studio, do="name", clusters=[0], name="water")
    assert (studio.project.model / "checkpoint.safetensors").read_bytes() == trained


def test_the_studios_own_writes_do_not_load_the_model_again(studio: Studio) -> None:
    desk = studio.desk
    do(studio, do="name", clusters=[0], name="water")
    studio.refresh()
    studio.tasks.wait()
    assert studio.desk is desk


def test_a_click_says_what_is_there_now(studio: Studio) -> None:
    labels = studio.need_desk().labels(3)
    cluster = int(labels[48, 64])
    do(studio, do="name", clusters=[cluster], name="water")
    do(studio, do="click", frame=3, x=0.501, y=0.501, name="water", asked=True)
    do(studio, do="click", frame=3, x=0.501, y=0.501, name="land", asked=False)
    clicks = studio.clicks()
    assert clicks["scores"]["asked"] == {
        "right": 1,
        "count": 1,
        "interval": pytest.approx([0.2065, 1.0], abs=1e-3),
    }
    assert clicks["scores"]["seen"]["right"] == 0
    assert clicks["doubts"][0]["cluster"] == cluster
    assert clicks["doubts"][0]["mixed"] == 1
    stored = load_clicks(studio.project.folder / "clicks.json")
    assert [c.frame for c in stored] == ["frame_3"] * 2


def test_clicks_never_reach_the_model(studio: Studio) -> None:
    before = (studio.project.model / "checkpoint.safetensors").read_bytes()
    for x in (0.1, 0.5, 0.9):
        do(studio, do="click", frame=0, x=x, y=0.9, name="water", asked=False)
    assert (studio.project.model / "checkpoint.safetensors").read_bytes() == before


def test_a_bundled_model_proposes_names_with_their_agreement(studio: Studio) -> None:
    number = studio.state()["like"].index("marine-lite")
    do(studio, do="like", model=number)
    studio.tasks.wait()
    assert studio.tasks.report()["proposals"]["state"] == "done"
    cards = [c for c in studio.clusters(number)["clusters"] if c["share"] > 0]
    for card in cards:
        proposal = card["proposal"]
        assert proposal["name"] in ("water", "sky", "obstacle")
        assert proposal["agreement"] == pytest.approx(max(proposal["shares"].values()))
        assert sum(proposal["shares"].values()) == pytest.approx(1)
    assert all(c["proposal"] is None for c in studio.clusters()["clusters"])


def test_a_project_belongs_to_its_footage_and_to_one_studio(
    studio: Studio, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = studio.project.folder
    with pytest.raises(UserError, match="--project"):
        Project(folder, Footage("folder", tmp_path_factory.mktemp("other")))
    with studio.project, pytest.raises(UserError, match="another studio"), Project(folder, None):
        pass


def test_a_state_that_is_none_is_refused_in_one_line(studio: Studio) -> None:
    path = studio.project.folder / "studio.json"
    good = json.loads(path.read_text())
    for text in ("{", "[]", json.dumps(good | {"format": 99})):
        path.write_text(text)
        with pytest.raises(UserError, match=r"studio\.json"):
            Project(studio.project.folder, None)
