# shellcheck shell=bash
# Shared by the scripts beside it: where everything is, and how each server starts and answers.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="${SYNCHROSCOPE_LOCAL_DIR:-${TMPDIR:-/tmp}/synchroscope-local-$(id -u)}"
cache="${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/synchroscope"
kafka_port="${SYNCHROSCOPE_LOCAL_KAFKA_PORT:-29092}"
postgres_port="${SYNCHROSCOPE_LOCAL_POSTGRES_PORT:-25432}"
redis_port="${SYNCHROSCOPE_LOCAL_REDIS_PORT:-26379}"

check_port() {
    if ! [[ "$2" =~ ^[1-9][0-9]{0,4}$ ]] || [ "$2" -gt 65535 ]; then
        echo "$1 is '$2': give a port, 1 to 65535" >&2
        exit 2
    fi
}

check_port SYNCHROSCOPE_LOCAL_KAFKA_PORT "$kafka_port"
check_port SYNCHROSCOPE_LOCAL_POSTGRES_PORT "$postgres_port"
check_port SYNCHROSCOPE_LOCAL_REDIS_PORT "$redis_port"
controller_port="${SYNCHROSCOPE_LOCAL_CONTROLLER_PORT:-$((kafka_port + 1))}"
check_port SYNCHROSCOPE_LOCAL_CONTROLLER_PORT "$controller_port"

kafka_version="4.1.1"
kafka_libs="$cache/kafka-$kafka_version"
servers=(kafka postgres redis)
wait_seconds=120

fail() { echo "deploy/local: $*" >&2; exit 1; }

check_names() {
    local name
    for name in "$@"; do
        case " ${servers[*]} " in
            *" $name "*) ;;
            *) echo "unknown server $name: choose from ${servers[*]}" >&2; exit 2 ;;
        esac
    done
}

# -- installing ------------------------------------------------------------------------------

install_debian() {
    command -v apt-get > /dev/null || fail "$* missing, and this is no Debian: install it yourself"
    [ "$(id -u)" = 0 ] || fail "$* missing: run as root: apt-get install -y --no-install-recommends $*"
    echo "installing $*"
    if ! (
        # Debian starts what it installs, unless a policy forbids it; ours run on ports of their own.
        policy="/usr/sbin/policy-rc.d"
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' > "$policy"
            chmod 755 "$policy"
        fi
        apt_install "$@" || { apt-get update || true; apt_install "$@"; }
    ) > "$root/apt.log" 2>&1; then
        tail -20 "$root/apt.log" >&2
        fail "apt-get could not install $*; its log is $root/apt.log"
    fi
}

apt_install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" < /dev/null; }

postgres_binaries() {
    local folder
    folder="$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)"
    [ -x "$folder/initdb" ] && echo "$folder"
}

install_kafka() {
    command -v java > /dev/null || install_debian openjdk-17-jre-headless
    [ -f "$kafka_libs/.complete" ] && return
    command -v mvn > /dev/null || install_debian maven
    mkdir -p "$cache"
    ( # Others, with another $root, may want the same libraries.
        flock 8
        [ -f "$kafka_libs/.complete" ] || fetch_kafka
    ) 8> "$cache/lock"
}

fetch_kafka() {
    echo "fetching Apache Kafka $kafka_version"
    rm -rf "$kafka_libs"
    mvn -q -B -f "$here/kafka/pom.xml" -Dkafka.version="$kafka_version" \
        dependency:copy-dependencies -DoutputDirectory="$kafka_libs" > "$root/maven.log" 2>&1 \
        || { tail -20 "$root/maven.log" >&2; fail "Maven could not fetch Apache Kafka; its log is $root/maven.log"; }
    touch "$kafka_libs/.complete"
}

install_postgres() { postgres_binaries > /dev/null || install_debian postgresql; }
install_redis() { command -v redis-server > /dev/null || install_debian redis-server; }

# -- processes -------------------------------------------------------------------------------

# What a server's command line must contain, so that a stale process ID kills nobody else.
mark_of() {
    case "$1" in
        kafka) echo "$root/kafka/server.properties" ;;
        postgres) echo "$root/postgres/data" ;;
        redis) echo "127.0.0.1:$redis_port" ;;
    esac
}

pid_of() {
    local file="$root/$1/pid" pid
    [ "$1" = postgres ] && file="$root/postgres/data/postmaster.pid"
    pid="$(head -1 "$file" 2> /dev/null)" || return 1
    [ -n "$pid" ] && [ -r "/proc/$pid/cmdline" ] || return 1
    tr '\0' ' ' < "/proc/$pid/cmdline" | grep -qF -- "$(mark_of "$1")" || return 1
    echo "$pid"
}

as_owner() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

answers() {
    case "$1" in
        kafka) [ "$(kafka_brokers 2> /dev/null)" = 00000001 ] ;;
        postgres) "$(postgres_binaries)/pg_isready" -q -h 127.0.0.1 -p "$postgres_port" -U sync -d postgres ;;
        redis) [ "$(redis-cli -h 127.0.0.1 -p "$redis_port" ping 2> /dev/null)" = PONG ] ;;
    esac
}

# The number of brokers, in hexadecimal, as the broker itself answers to Metadata, version 1, of no
# topic; nothing when it does not answer. It counts itself once it may take requests.
kafka_brokers() {
    {
        printf '\x00\x00\x00\x12\x00\x03\x00\x01\x00\x00\x00\x02\x00\x04wait\x00\x00\x00\x00' >&3
        timeout 3 head -c 12 <&3 | od -An -tx1 -j 8 | tr -d ' \n'
    } 3<> "/dev/tcp/127.0.0.1/$kafka_port"
}

start_kafka() {
    local folder="$root/kafka"
    mkdir -p "$folder"
    cat > "$folder/server.properties" << PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller_port
listeners=PLAINTEXT://127.0.0.1:$kafka_port,CONTROLLER://127.0.0.1:$controller_port
advertised.listeners=PLAINTEXT://127.0.0.1:$kafka_port
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs=$folder/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=16777216
PROPERTIES
    if [ ! -f "$folder/data/meta.properties" ]; then
        local id
        id="$(java -cp "$kafka_libs/*" kafka.tools.StorageTool random-uuid 2> /dev/null)"
        java -cp "$kafka_libs/*" kafka.tools.StorageTool format -t "$id" -c "$folder/server.properties" \
            > "$folder/format.log" 2>&1 || { cat "$folder/format.log" >&2; fail "Kafka cannot format its data"; }
    fi
    cat > "$folder/log4j2.properties" << 'LOGGING'
status=error
rootLogger.level=info
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=[%d] %p %m (%c)%n
LOGGING
    : > "$folder/log"
    setsid nohup java -Xms256m -Xmx512m -XX:+UseSerialGC \
        -Dlog4j2.configurationFile="$folder/log4j2.properties" -cp "$kafka_libs/*" \
        kafka.Kafka "$folder/server.properties" >> "$folder/log" 2>&1 < /dev/null 9>&- &
    echo $! > "$folder/pid"
}

start_postgres() {
    local folder="$root/postgres" binaries
    binaries="$(postgres_binaries)"
    mkdir -p "$folder"
    if [ "$(id -u)" = 0 ]; then
        chown postgres "$folder"
        as_owner test -x "$folder" \
            || fail "the user postgres cannot enter $folder: chmod a+x its parents, or choose another SYNCHROSCOPE_LOCAL_DIR"
    fi
    if [ ! -f "$folder/data/PG_VERSION" ]; then
        (cd "$folder" && as_owner "$binaries/initdb" -D "$folder/data" -A trust -U sync -E UTF8 --locale=C.UTF-8 -N) \
            > "$root/initdb.log" 2>&1 || { cat "$root/initdb.log" >&2; fail "initdb failed"; }
    fi
    (cd "$folder" && as_owner "$binaries/pg_ctl" -D "$folder/data" -l "$folder/log" -W start \
        -o "-p $postgres_port -h 127.0.0.1 -k '$folder' -c max_connections=200") > /dev/null 9>&-
}

start_redis() {
    local folder="$root/redis"
    mkdir -p "$folder"
    setsid nohup redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$folder" --save '' \
        --appendonly yes --appendfsync everysec >> "$folder/log" 2>&1 < /dev/null 9>&- &
    echo $! > "$folder/pid"
}

start() {
    local name="$1" deadline=$((SECONDS + wait_seconds))
    if pid_of "$name" > /dev/null; then
        echo "$name is running already"
    else
        "install_$name"
        # A server that was killed a moment ago may still hold its port while its threads end.
        local tries=0
        while (exec 3<> "/dev/tcp/127.0.0.1/$(port_of "$name")") 2> /dev/null; do
            tries=$((tries + 1))
            [ "$tries" -lt 50 ] || fail "port $(port_of "$name") is taken by another process:" \
                "set SYNCHROSCOPE_LOCAL_${name^^}_PORT"
            sleep 0.1
        done
        "start_$name"
        deadline=$((SECONDS + wait_seconds)) # installing takes its own time
    fi
    until answers "$name"; do
        if [ $SECONDS -ge $deadline ]; then give_up "$name" "does not answer after $wait_seconds s"; fi
        if [ $SECONDS -ge $((deadline - wait_seconds + 5)) ] && ! pid_of "$name" > /dev/null; then
            give_up "$name" "has ended"
        fi
        sleep 0.1
    done
    pid_of "$name" > /dev/null || give_up "$name" "is not the one that answers on port $(port_of "$name")"
    echo "$name answers on port $(port_of "$name")"
}

give_up() {
    tail -20 "$root/$1/log" >&2 || true
    fail "$1 $2; its log is $root/$1/log"
}

port_of() {
    case "$1" in
        kafka) echo "$kafka_port" ;;
        postgres) echo "$postgres_port" ;;
        redis) echo "$redis_port" ;;
    esac
}

stop() {
    local name="$1" signal="${2:-TERM}" pid deadline=$((SECONDS + 30))
    pid="$(pid_of "$name")" || { echo "$name is not running"; return 0; }
    if [ "$name" = postgres ] && [ "$signal" = TERM ]; then signal=INT; fi # do not wait for clients
    local children=()
    if [ "$signal" = KILL ]; then mapfile -t children < <(pgrep -P "$pid" || true); fi
    kill -"$signal" "$pid" "${children[@]}" 2> /dev/null || true
    while kill -0 "$pid" 2> /dev/null && ! grep -q '^State:.Z' "/proc/$pid/status" 2> /dev/null; do
        if [ $SECONDS -ge $deadline ]; then kill -KILL "$pid" 2> /dev/null || true; fi
        sleep 0.05
    done
    if [ "$signal" = KILL ] && [ "$name" = postgres ]; then
        rm -f "$root/postgres/data/postmaster.pid" "$root/postgres/.s.PGSQL."*
    fi
    echo "$name stopped"
}

locked() {
    mkdir -p "$root"
    chmod 755 "$root"
    exec 9> "$root/lock"
    flock -w 600 9 || fail "another deploy/local has been at work in $root for ten minutes"
}
