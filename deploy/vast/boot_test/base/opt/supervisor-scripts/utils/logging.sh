# shellcheck shell=bash
# Stand-in: output goes to the program's log and to supervisor; the last log is kept as .old.
_log=${1:-/var/log/portal/$PROC_NAME.log}
if [[ -f $_log ]]; then
    mv "$_log" "$_log.old"
fi
exec > >(tee -a "$_log") 2>&1
