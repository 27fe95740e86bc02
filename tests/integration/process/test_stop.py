"""The stop of the observed service; what reads its log and traces to their end comes after."""

from __future__ import annotations

from tests.support.observed_service import TOKENS, Ended, Observed


def test_stop_finishes_work_with_token_and_json_logs(observed: Observed, ended: Ended) -> None:
    assert ended.refused == [401, 401]
    # Ids and sessions are those of the token that made them.
    assert ended.strangers == [{"cancelled": []}] * 2
    assert ended.before_stop == ["started"]
    assert ended.last.status_code == 200
    text = observed.log.read_text(errors="replace")
    assert '"request_id": "last-words"' in text
    for token in TOKENS:
        assert token not in text
