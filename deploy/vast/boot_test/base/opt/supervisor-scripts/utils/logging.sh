# shellcheck shell=bash
# Stand-in: write output to the program's log and to supervisor; keep the last log as .old.
_log=${1:-/var/log/portal/$PROC_NAME.log}
if [[ -f $_log ]]; then
    mv "$_log" "$_log.old"
fi
exec > >(tee -a "$_log") 2>&1
