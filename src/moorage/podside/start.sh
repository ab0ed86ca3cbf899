# Runs the job's command ($1) once for each process of this instance, in the user's image: POSIX shell only, since there may be nothing else.
#
# The first process that fails decides: its exit code becomes the container's, the others get SIGTERM and, after a while, SIGKILL. SIGTERM to
# the container reaches every process. The first process writes to the container's log; the others to files, which the sidecar stores in the
# run's user_logs. docs/decisions/0013-distributed-training.md says why.
set -u
command=$1
folder=${0%/*}
# Variables, the files for output, and how many seconds after SIGTERM comes SIGKILL (`patience`).
. "$folder/instance.sh"
state=$folder/processes
mkdir "$state" || exit 1
trap 'end 143 &' TERM

# A session of its own for each process, so that a signal reaches what the command has started too. Images without setsid (there are few) signal
# the command's own process only.
session=
if command -v setsid >/dev/null 2>&1; then
    session=setsid
fi

# Signal $1 to process $2 and all of its session; before it has made one, to itself.
send() {
    kill -s "$1" -- "-$2" 2>/dev/null || kill -s "$1" -- "$2" 2>/dev/null
}

# Signal $1 to every process; fails when there is none any more.
signal() {
    reached=1
    for file in "$state"/[0-9]*; do
        other=$(cat "$file" 2>/dev/null)
        [ -n "$other" ] && send "$1" "$other" && reached=0
    done
    return "$reached"
}

# End all processes with the code $1, unless somebody does already.
end() {
    mkdir "$state/ending" 2>/dev/null || return 0
    echo "$1" >"$state/code"
    signal TERM
    waited=0
    while [ "$waited" -lt "$patience" ] && signal 0; do
        sleep 1
        waited=$((waited + 1))
    done
    signal KILL
}

# Become the command, unless the end has come already.
begin() {
    trap - TERM
    [ -d "$state/ending" ] && exit 143
    exec $session /bin/sh -c "$command"
}

# Run process $1 of this instance and wait for its end.
attend() {
    # Where the whole process group is signalled, this shell must stay to report how its process ended.
    trap '' TERM
    LOCAL_RANK=$1
    RANK=$((NODE_RANK * LOCAL_WORLD_SIZE + LOCAL_RANK))
    export LOCAL_RANK RANK
    eval "log=\$log_$LOCAL_RANK"
    if [ "$LOCAL_RANK" -gt 0 ]; then
        begin >"$log" 2>&1 &
    else
        begin &
    fi
    process=$!
    echo "$process" >"$state/$LOCAL_RANK"
    # Whoever ends all processes has either read this file, or made the folder before.
    [ -d "$state/ending" ] && send TERM "$process"
    # Without the shell's own words about a signal.
    wait "$process" 2>/dev/null
    code=$?
    # Its number may soon be another's.
    rm -f "$state/$LOCAL_RANK"
    [ "$code" -eq 0 ] && return
    if [ "$LOCAL_RANK" -gt 0 ] && [ ! -d "$state/ending" ]; then
        echo "Process $RANK ended with exit code $code. The last lines of user_logs/${log##*/}:" >&2
        tail -n 40 "$log" >&2
    fi
    end "$code"
}

attendants=
number=0
while [ "$number" -lt "$LOCAL_WORLD_SIZE" ]; do
    attend "$number" &
    attendants="$attendants $!"
    number=$((number + 1))
done
for attendant in $attendants; do
    # A signal interrupts `wait`.
    while kill -s 0 "$attendant" 2>/dev/null; do
        wait "$attendant" 2>/dev/null
    done
done
[ -d "$state/ending" ] || exit 0
exit "$(cat "$state/code" 2>/dev/null || echo 143)"
