import os

import pytest
from hypothesis import settings

# Fast tests first: a mistake shows before Ray starts. Then the long files, so that of two processes
# that share the rest none has a long one left at the end.
ORDER = ("unit", "chaos", "integration", "browser", "gpu")
# What a machine may have set that would lead these tests, and all they start, elsewhere: to
# another cluster, through a proxy to a server on loopback, to colours in what is compared.
for name in ("RAY_ADDRESS", "FORCE_COLOR", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
for name in ("NO_PROXY", "no_proxy"):
    os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray kills workers when other programs fill the machine; who dies here is for us to say.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray's workers would yield (niceness 15) to whatever else the machine does: beside two busy
    # processes they had a thirtieth of a core.
    "RAY_worker_niceness": "0",
}
# Threads wait for each other after every operation: beside busy processes two of them needed 283 s
# for what one does in 4. Workers count their own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples everywhere: what a run finds, the next one finds again, here and at the gate.
# HYPOTHESIS_PROFILE=default looks for new ones.
settings.register_profile("same", derandomize=True, database=None, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


def pytest_collection_modifyitems(items):
    """Sorts tests by their kind; one without a kind is a mistake."""
    for item in items:
        kinds = [kind for kind in ORDER if item.get_closest_marker(kind)]
        assert len(kinds) == 1, f"{item.nodeid}: mark it as one of {ORDER}"
    items.sort(key=lambda item: ORDER.index(next(k for k in ORDER if item.get_closest_marker(k))))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """The folder of a random classifier that is not changed."""
    from helpers import tiny_classifier

    return tiny_classifier(tmp_path_factory.mktemp("model"))
