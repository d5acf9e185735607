"""Metrics come out as Prometheus text, bounded in labels."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh_chassis.metrics import CHILDREN_MAX, CONTENT_TYPE, DECLARED, SECONDS, Metrics, Shape


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("gateway", "0.1.0", "gateway-1")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_call_counts_by_outcome_and_times_by_method(metrics: Metrics) -> None:
    for outcome, seconds in (("ok", 0.0015), ("ok", 0.002), ("deadline", 400.0)):
        metrics.call("http", "tools/call", outcome, seconds)
    found = samples(metrics)
    labels = (("edge", "http"), ("method", "tools/call"))
    assert found["mesh_calls_total", (*labels, ("outcome", "ok"))] == 2
    assert found["mesh_calls_total", (*labels, ("outcome", "deadline"))] == 1
    assert found["mesh_call_seconds_count", labels] == 3
    assert found["mesh_call_seconds_sum", labels] == pytest.approx(400.0035)

    def bucket(bound: str) -> float:
        name, value = "mesh_call_seconds_bucket", (labels[0], ("le", bound), labels[1])
        return found[name, value]

    assert [bucket(b) for b in ("0.001", "0.002", "300.0", "+Inf")] == [0, 2, 2, 3]


def test_text_names_the_process_and_its_resources(metrics: Metrics) -> None:
    found = samples(metrics)
    info = (("instance", "gateway-1"), ("service", "gateway"), ("version", "0.1.0"))
    assert found["mesh_info", info] == 1
    assert found["process_resident_memory_bytes", ()] > 0
    assert CONTENT_TYPE.startswith("text/plain")


def test_text_declares_every_metric_of_the_table(metrics: Metrics) -> None:
    text = metrics.text().decode()
    for one in DECLARED:
        suffix = "_total" if one.shape is Shape.COUNTER else ""
        assert f"# TYPE {one.name}{suffix} {one.shape}" in text


def test_gauges_are_set_added_asked_and_forgotten(metrics: Metrics) -> None:
    metrics.add("mesh_inflight")
    metrics.add("mesh_inflight", by=-1)
    metrics.set("mesh_child_processes", 3)
    metrics.ask("mesh_watch_age_seconds", lambda: 0.25, "mesh_keys")
    found = samples(metrics)
    assert found["mesh_inflight", ()] == 0
    assert found["mesh_child_processes", ()] == 3
    assert found["mesh_watch_age_seconds", (("bucket", "mesh_keys"),)] == 0.25
    metrics.forget("mesh_watch_age_seconds", "mesh_keys")
    assert ("mesh_watch_age_seconds", (("bucket", "mesh_keys"),)) not in samples(metrics)
    assert metrics.value("mesh_child_processes") == 3


def test_one_source_that_raises_does_not_hide_the_others(metrics: Metrics) -> None:
    metrics.set("mesh_child_processes", 3)
    metrics.ask("mesh_inflight", lambda: 1 / 0)
    assert samples(metrics)["mesh_child_processes", ()] == 3


def test_labels_that_callers_invent_are_bounded(metrics: Metrics) -> None:
    for i in range(CHILDREN_MAX + 50):
        metrics.call("http", f"m{i}", "ok", 0.001)
    found = samples(metrics)
    other = (("edge", "other"), ("method", "other"))
    assert found["mesh_calls_total", (*other, ("outcome", "other"))] == 50
    assert found["mesh_call_seconds_count", other] == 50
    assert len(metrics.text()) < CHILDREN_MAX * len(SECONDS) * 200


def test_labels_cannot_forge_lines(metrics: Metrics) -> None:
    metrics.call("http", 'x"} 1\nforged 1', "ok", 0.001)
    assert not any(line.startswith(b"forged") for line in metrics.text().splitlines())


def test_undeclared_names_and_wrong_labels_are_mistakes(metrics: Metrics) -> None:
    with pytest.raises(KeyError):
        metrics.add("mesh_calls_of_mine")
    with pytest.raises(ValueError, match="labels"):
        metrics.add("mesh_busy")
    with pytest.raises(ValueError, match="labels"):
        metrics.set("mesh_inflight", 1, "x")
    metrics.observe("mesh_call_seconds", 0.1, "tcp", "ping")
    metrics.observe("mesh_call_seconds", 0.1, "tcp", "ping")
    assert samples(metrics)["mesh_call_seconds_count", (("edge", "tcp"), ("method", "ping"))] == 2
