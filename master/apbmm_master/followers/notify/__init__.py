"""Notices of a run by a command or a webhook, as `[notify]` of the run file says.

`notices` says what is worth a notice, `delivery` runs the command and posts to the webhook,
`telling` follows a run and does both.
"""

__all__ = ["delivery", "notices", "telling"]
