import os
from collections.abc import Iterator

import pytest

from file_service import metrics
from file_service.metrics import Counter


@pytest.fixture
def fresh() -> Iterator[None]:
    """Counters of this test go with it; the service's own stay as they were."""
    counters, used = list(metrics._counters), metrics._memory.used
    yield
    metrics._counters[:], metrics._memory.used = counters, used
    metrics.share(1)


@pytest.mark.usefixtures("fresh")
def test_a_counter_is_told_as_prometheus_reads_it() -> None:
    plain = Counter("eggs", "Eggs laid.")
    labelled = Counter("hens", "Hens seen.", label="colour", values=["white", "brown", "blue"])
    plain.add(7)
    labelled.add(value="brown")
    labelled.add(2, value="white")
    assert plain.format() == (
        "# HELP file_service_eggs_total Eggs laid.\n"
        "# TYPE file_service_eggs_total counter\n"
        "file_service_eggs_total 7\n"
    )
    assert labelled.format().splitlines()[2:] == [
        'file_service_hens_total{colour="white"} 2',
        'file_service_hens_total{colour="brown"} 1',
    ]
    assert metrics.format_all().endswith(plain.format() + labelled.format())


@pytest.mark.usefixtures("fresh")
def test_a_value_that_was_not_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Counter("hens", "Hens seen.", label="colour", values=["white"]).add(value="green")
    with pytest.raises(ValueError, match="no cells left"):
        Counter("many", "Too many.", label="n", values=map(str, range(1000)))


@pytest.mark.usefixtures("fresh")
def test_forked_workers_count_together_and_a_successor_goes_on() -> None:
    counter = Counter("eggs", "Eggs laid.")
    counter.add(100)
    metrics.share(2)  # begins at zero
    for worker in (0, 1, 1):  # the last one is the successor of the second
        pid = os.fork()
        if pid == 0:
            metrics.join(worker)
            counter.add(10)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert counter.get() == 30
