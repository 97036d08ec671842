#!/bin/sh
# Runs a command now and here; its output goes to the stores while it is printed, and is shown as well.
#
#   output-streamer.sh ACTION_ID STAGE COMMAND [ARGUMENT...]
#
# Ends with the command's own code. DATASTORE_BACKENDS and their URLs say where the output goes.
set -eu
if [ "$#" -lt 3 ]; then
    echo "usage: output-streamer.sh ACTION_ID STAGE COMMAND [ARGUMENT...]" >&2
    exit 2
fi
action=$1
stage=$2
shift 2
exec pipeline stream --pass-code "$action" "$stage" -- "$@"
