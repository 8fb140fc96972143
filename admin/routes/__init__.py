"""Routes: host + path + methods → upstream. They serve both modes of a project.

No two routes, of whatever project, may match the same requests: the first to claim a host and path has it.
"""
