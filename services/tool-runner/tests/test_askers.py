"""What is remembered of a server's habit to ask back."""

from tool_runner.core.askers import CLEARED_AFTER, TARGETS_MAX, Askers, target_of

ASK = target_of("tools/call", b'{"name":"ask","arguments":{}}')
OTHER = target_of("tools/call", b'{"name":"other"}')


def test_targets_differ_by_method_and_name() -> None:
    assert ASK != OTHER
    assert target_of("prompts/get", b'{"name":"ask"}') != ASK
    assert target_of("resources/read", b'{"uri":"a"}') == ("resources/read", '"a"')
    assert target_of("completion/complete", b"{}") == ("completion/complete", "")
    assert target_of("tools/call", b"[]") == ("tools/call", "")


def test_suspect_is_cleared_after_quiet_runs_but_not_who_asked() -> None:
    askers = Askers()
    assert not askers
    askers.suspect(ASK)
    askers.suspect(OTHER)
    askers.prove(ASK)
    for _ in range(CLEARED_AFTER):
        assert OTHER in askers
        askers.ended(ASK)
        askers.ended(OTHER)
    assert OTHER not in askers
    assert ASK in askers
    askers.suspect(ASK)
    askers.ended(ASK)
    assert ASK in askers


def test_memory_of_askers_is_bounded() -> None:
    askers = Askers()
    for n in range(TARGETS_MAX + 5):
        askers.prove(("tools/call", str(n)))
    assert ("tools/call", "0") not in askers
    assert ("tools/call", str(TARGETS_MAX + 4)) in askers
