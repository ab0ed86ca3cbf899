# Runs the command ($1) of a job of one process, in the user's image: POSIX shell only, since there may be nothing else.
#
# Process 1 of a container hears no signal that it has not asked for: a command in its place would sleep through SIGTERM until the pod's grace is
# over. As a child of this shell it is told as any other process is. docs/decisions/0018-signals-of-one-process.md says who else is told, and when.

# Names begin with an underscore: an assignment to one that is in the environment would change what the command finds there.
_heard=
trap '_heard=1' TERM
_process=
_awaited=
_code=
# Without /proc (macOS) there are no containers either.
[ -r /proc/self/stat ] || exec /bin/sh -c "$1"

# Become the command.
begin() {
    # A session of its own, since the embedded cluster signals all of this one.
    _session=
    command -v setsid >/dev/null 2>&1 && _session=setsid
    # A shell has what it starts in the background ignore SIGINT, for good. Older images have nothing that undoes it.
    env --default-signal=INT,QUIT true 2>/dev/null && exec env --default-signal=INT,QUIT $_session /bin/sh -c "$1"
    exec $_session /bin/sh -c "$1"
}

# Whether a mask of process $1 in the field $2, a bit for each signal, ends with hexadecimal digits like $3.
signals() {
    grep -q "^$2:.*$3\$" "/proc/$1/status" 2>/dev/null
}

catches_sigterm() {
    signals "$1" SigCgt '[4567cdef]...'
}

# As those do that a shell has put into the background.
ignores_sigint() {
    signals "$1" SigIgn '[2367abef]'
}

# Those of processes $@ that their shell waits for before it hears of a signal.
foreground() {
    for _each; do
        ignores_sigint "$_each" || echo "$_each"
    done
}

is_shell() {
    case $(readlink "/proc/$1/exe" 2>/dev/null) in
        */sh | */dash | */bash | */ash | */busybox | */ksh* | */zsh*) ;;
        *) return 1 ;;
    esac
}

# Whether process $1 is there, and not only waiting to be asked how it ended.
going() {
    { read -r _line <"/proc/$1/stat"; } 2>/dev/null || return 1
    case ${_line##*) } in
        [ZX]*) return 1 ;;
    esac
}

# The words that process $1 was started with.
words() {
    tr '\0' '\n' <"/proc/$1/cmdline" 2>/dev/null
}

# Tell process $1 to end, and what it has started unless it answers for that itself. Without $2: only where that is of use.
tell() {
    # Before the signal: after it they may be nobody's.
    _children=$(cat "/proc/$1"/task/*/children 2>/dev/null)
    _now=
    if catches_sigterm "$1"; then
        _awaited="$_awaited $1"
        if is_shell "$1"; then
            _now=now
            ignores_sigint "$1" || _children=$(foreground $_children)
        else
            _children=
        fi
    elif [ -z "$2$_children" ]; then
        # It would only die, as it will with this container; until then others may be writing into it.
        return
    fi
    kill -s TERM "$1" 2>/dev/null
    set -- "$_now"
    for _each in $_children; do
        tell "$_each" "$1"
    done
}

# Tell the command.
end() {
    _own=$(words "$$")
    if [ -n "$_own" ] && [ "$(words "$_process")" = "$_own" ]; then
        # Still a copy of this shell, which may take any other signal for its own.
        kill -s KILL "$_process" 2>/dev/null
        exit 143
    fi
    tell "$_process" now
}

trap '_heard=1; [ -z "$_process" ] || end' TERM
begin "$1" &
_process=$!
# While it was beginning.
if [ -n "$_heard" ]; then
    kill -s KILL "$_process" 2>/dev/null
    exit 143
fi
# What else people send to process 1, and some images name as their STOPSIGNAL.
for _signal in HUP INT QUIT USR1 USR2; do
    trap "_heard=1; kill -s $_signal \"\$_process\" 2>/dev/null" "$_signal"
done

while :; do
    _heard=
    # Without the shell's own words about a signal.
    wait "$_process" 2>/dev/null
    _again=$?
    # A signal interrupts `wait`; 127 says that the end was told before.
    [ -n "$_code" ] && [ "$_again" -eq 127 ] || _code=$_again
    [ -n "$_heard" ] || break
done
# A shell between is gone at once; what it ran may still be storing a checkpoint.
for _each in $_awaited; do
    while going "$_each"; do
        sleep 0.1 2>/dev/null || sleep 1 || break
    done
done
exit "$_code"
