set -eu
umask 077
folder=/run/basalt
console=/dev/console
variables="$folder/artifact.env"

say() {
  echo "basalt: $*" >> "$console"
}

# What cloud-init finds here it runs at each boot; this script itself only at the first.
again=/var/lib/cloud/scripts/per-boot
if [ -d "$again" ] && [ "$0" != "$again/basalt" ]; then
  cp "$0" "$again/basalt" && chmod 700 "$again/basalt" || say "at the next boot nothing will be started: $again cannot be written"
fi

mkdir -p "$folder"
variables > "$variables"

# What the program writes goes to the console: its end is the log.
follow() {
  podman logs --follow artifact || true
  while sleep 1; do
    podman logs --follow --since 1s artifact || true
  done
}

keep() {
  until start > /dev/null; do
    say "podman could not start $image; it is tried again in 10 s"
    sleep 10
  done
  follow
}

if command -v basalt-run > /dev/null; then
  say "$image is run by basalt-run"
  run >> "$console" 2>&1 < /dev/null &
elif command -v podman > /dev/null; then
  say "$image is run by podman"
  keep >> "$console" 2>&1 < /dev/null &
else
  say "nothing here can run $image: use an image of a VM that has podman or basalt-run"
  exit 1
fi
