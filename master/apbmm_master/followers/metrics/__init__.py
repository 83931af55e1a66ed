"""Metrics of a run for Prometheus, served by a process of its own.

`families` makes them from a status snapshot, `server` serves them at `/metrics`. The files in
`systemd/monitoring/` (a dashboard for Grafana, alert rules) name them.
"""

__all__ = ["families", "server"]
