#!/bin/sh
# Waits for build-requested events of an action, and runs a command at each; build-done follows where the pipeline goes on.
#
#   build-subscriber.sh ACTION_ID COMMAND [ARGUMENT...]
#
# `*` for the action means all of them. The command has the payload on standard input.
set -eu
if [ "$#" -lt 2 ]; then
    echo "usage: build-subscriber.sh ACTION_ID COMMAND [ARGUMENT...]" >&2
    exit 2
fi
action=$1
shift
exec pipeline work --on "build-requested:$action" --stage build --then build-done -- "$@"
