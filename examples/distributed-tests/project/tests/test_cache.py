from pathlib import Path

WARM = Path(__file__).with_name("cache.warm")


def test_cache_answers():
    # As such tests do: whoever comes first finds it cold.
    cold = not WARM.exists()
    WARM.touch()
    assert not cold, "the cache did not answer in time"


def test_cache_forgets():
    assert True
