"""Sends it: connections, protocols with checked answers, the open-loop dispatcher, a process per generator."""
