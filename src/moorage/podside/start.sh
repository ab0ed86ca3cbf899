# Runs the job's command ($1) once for each process of this instance, in the user's image: POSIX shell only, since there may be nothing else.
#
# The first process that fails decides: its exit code becomes the container's, the others get SIGTERM and, after a while, SIGKILL. SIGTERM to
# the container reaches every process. The first process writes to the container's log; the others to files, which the sidecar stores in the
# run's user_logs. docs/decisions/0013-distributed-training.md says why.
set -u
# Process 1 of a container hears no signal that it has not asked for: a pod that is taken away while it starts would use up all of its grace.
_told=
trap '_told=1' TERM
# Names begin with an underscore: an assignment to one that is in the environment would change what the command finds there.
_command=$1
_folder=${0%/*}
# Variables, the files for output, and how many seconds after SIGTERM comes SIGKILL (`_patience`).
. "$_folder/instance.sh"
_state=$_folder/processes
mkdir "$_state" "$_state/going" "$_state/code" || exit 1

# A session of its own for each process, so that a signal reaches what the command has started too. Images without setsid (there are few) signal
# the command's own process only.
_session=
if command -v setsid >/dev/null 2>&1; then
    _session=setsid
fi

# Signal $1 to process $2 and all of its session; before it has made one, to itself.
send() {
    kill -s "$1" -- "-$2" 2>/dev/null || kill -s "$1" -- "$2" 2>/dev/null
}

# Signal $1 to every process; fails when there is none any more.
signal() {
    _reached=1
    for _file in "$_state"/[0-9]*; do
        _other=$(cat "$_file" 2>/dev/null)
        [ -n "$_other" ] && send "$1" "$_other" && _reached=0
    done
    return "$_reached"
}

# End all processes with the code $1, unless somebody does already.
end() {
    # Renamed and not written, since the disk may be full by now.
    mv "$_state/going" "$_state/ending" 2>/dev/null || return 0
    mv "$_state/code" "$_state/code.$1"
    signal TERM
    _waited=0
    while [ "$_waited" -lt "$_patience" ] && signal 0; do
        sleep 1
        _waited=$((_waited + 1))
    done
    signal KILL
}

# Become the command, unless the end has come already.
begin() {
    trap - TERM
    [ -d "$_state/ending" ] && exit 143
    exec $_session /bin/sh -c "$_command"
}

# Run process $1 of this instance and wait for its end.
attend() {
    # Where the whole process group is signalled, this shell must stay to report how its process ended.
    trap '' TERM
    LOCAL_RANK=$1
    RANK=$((NODE_RANK * LOCAL_WORLD_SIZE + LOCAL_RANK))
    export LOCAL_RANK RANK
    eval "_log=\$_log_$LOCAL_RANK"
    if [ "$LOCAL_RANK" -gt 0 ]; then
        begin >"$_log" 2>&1 &
    else
        begin &
    fi
    _process=$!
    echo "$_process" >"$_state/$LOCAL_RANK"
    # Whoever ends all processes has either read this file, or made the folder before.
    [ -d "$_state/ending" ] && send TERM "$_process"
    # Without the shell's own words about a signal.
    wait "$_process" 2>/dev/null
    _code=$?
    # Its number may soon be another's.
    rm -f "$_state/$LOCAL_RANK"
    [ "$_code" -eq 0 ] && exit 0
    if [ "$LOCAL_RANK" -gt 0 ] && [ ! -d "$_state/ending" ]; then
        echo "Process $RANK ended with exit code $_code. The last lines of user_logs/${_log##*/}:" >&2
        tail -n 40 "$_log" >&2
    fi
    end "$_code"
    exit "$_code"
}

# Not before there is such a function.
trap 'end 143 &' TERM
[ -n "$_told" ] && exit 143
_attendants=
_number=0
while [ "$_number" -lt "$LOCAL_WORLD_SIZE" ]; do
    attend "$_number" &
    _attendants="$_attendants $!"
    _number=$((_number + 1))
done
_failed=0
for _attendant in $_attendants; do
    wait "$_attendant" 2>/dev/null
    _code=$?
    # A signal interrupts `wait`.
    while kill -s 0 "$_attendant" 2>/dev/null; do
        wait "$_attendant" 2>/dev/null
        _again=$?
        # Its number is another's by now.
        [ "$_again" -eq 127 ] && break
        _code=$_again
    done
    [ "$_failed" -ne 0 ] || _failed=$_code
done
for _code in "$_state"/code.*; do
    [ -d "$_code" ] && exit "${_code##*.}"
done
# SIGTERM has just come, or the command has removed these folders.
[ "$_failed" -eq 0 ] && [ -d "$_state/ending" ] && exit 143
exit "$_failed"
