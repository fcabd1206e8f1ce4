"""Results: values that are kept, sealed against damage and exchange, in files, rows or places of the user's choice."""

from __future__ import annotations

from penstock.results.store import ResultRecord, ResultStore

__all__ = ["ResultRecord", "ResultStore"]
