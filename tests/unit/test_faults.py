"""The page of faults: what it says, and what is noticed about it."""

from tests.support.faults import Fault, What, Where, missing_and_stale, page

CUT = Fault(What.NETWORK, "the network is cut", "work goes on", Where.NAMESPACE, long=False)
DAY = Fault(What.CROWD, "a day passes", "nothing grows", Where.SIMULATED, long=True)


def test_a_page_has_what_is_needed() -> None:
    assert missing_and_stale(page({CUT: 12.34, DAY: 0.5}), [CUT, DAY]) == ([], [])


def test_how_long_it_took_is_told() -> None:
    text = page({CUT: 12.34, DAY: 0.5})
    assert "| the network is cut | work goes on | namespace | 12 |" in text
    assert "| a day passes | nothing grows | simulated, long | 0.5 |" in text


def test_a_row_too_few_and_one_too_many_are_noticed() -> None:
    missing, stale = missing_and_stale(page({CUT: 1.0}), [DAY])
    assert missing == ["| a day passes | nothing grows | simulated, long |"]
    assert stale == ["| the network is cut | work goes on | namespace |"]


def test_a_run_of_some_tests_keeps_the_rows_of_the_others() -> None:
    text = page({CUT: 3.0}, page({CUT: 12.34, DAY: 0.5}))
    assert missing_and_stale(text, [CUT, DAY]) == ([], [])
    assert "| namespace | 3.0 |" in text
