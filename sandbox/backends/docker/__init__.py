"""Single-use containers of a Docker Engine on this machine, from a warm pool, fed through their standard input.

`image` makes an image where no registry can be reached, `engine` is all that is asked of the Engine (blocking, in threads),
`backend` is what the rest of the plane sees. Limits and figures are those of a cgroup of ours that is each container's
parent: the Engine's own figures come a second late and are gone when the container is.
"""
