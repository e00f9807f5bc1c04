#!/bin/sh
# Stands in for qemu-img in the engine's tests: makes an empty overlay.
# create -q -u -f qcow2 -b IMAGE -F raw DISK SIZE
[ "$1" = create ] && : > "${10}"
