"""Environments: the simulator behind the interfaces that others know."""

from amal.envs.smac import SMACWrapper

__all__ = ["SMACWrapper"]
