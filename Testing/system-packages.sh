#!/bin/sh
# Makes sure that Linux has the libraries by which Qt (offscreen) and VTK (EGL with Mesa) draw without a screen.
# Does nothing where they are present, and nothing on other systems, whose wheels bring what they need.
set -eu

libraries="libEGL.so.1 libEGL_mesa.so.0 libGL.so.1 libglib-2.0.so.0 libfontconfig.so.1 libxkbcommon.so.0
libdbus-1.so.3 libX11.so.6"
packages="libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libglib2.0-0 libfontconfig1 libxkbcommon0 libdbus-1-3 libx11-6"

missing() {
    for library in $libraries; do
        if ! ldconfig -p 2>/dev/null | grep -q "$library "; then
            printf '%s ' "$library"
        fi
    done
}

[ "$(uname -s)" = Linux ] || exit 0
PATH="$PATH:/sbin:/usr/sbin"
if ! command -v ldconfig >/dev/null; then
    echo "ldconfig is not on this machine: the tests that draw tell whether EGL is there" >&2
    exit 0
fi
absent="$(missing)"
[ -n "$absent" ] || exit 0

if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "Installing the system libraries for drawing without a screen ($absent)"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086  # the list is meant to be split
    apt-get install -y -qq --no-install-recommends $packages
    absent="$(missing)"
    [ -n "$absent" ] || exit 0
fi
echo "The tests draw without a screen and need system libraries that are missing: $absent" >&2
echo "On Debian or Ubuntu: sudo apt-get install $packages" >&2
exit 1
