# Installs the packages given as arguments and starts nothing of theirs: run by `cargo xtask packages` as root.
#
# Two files are written for the time of the installation, unless the machine has its own, and removed on every way out:
# a policy that refuses to start services, and a setting that keeps PostgreSQL from making a cluster of its own.
set -eu

policy=/usr/sbin/policy-rc.d
cluster=/etc/postgresql-common/createcluster.d/basalt-install.conf
marker='# Written by cargo xtask packages, for the time of one installation.'

remove_ours() {
	for file in "$policy" "$cluster"; do
		if [ -f "$file" ] && grep -qF "$marker" "$file"; then
			rm -f "$file"
		fi
	done
}
trap remove_ours EXIT
trap 'exit 130' HUP INT TERM

# An earlier run that was killed outright may have left its files.
remove_ours
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\n%s\nexit 101\n' "$marker" >"$policy"
	chmod 0755 "$policy"
fi
mkdir -p "${cluster%/*}"
printf '%s\ncreate_main_cluster = off\n' "$marker" >"$cluster"

export DEBIAN_FRONTEND=noninteractive
# Its input is not this script, which the shell is still reading. --no-remove: rather fail than take a package away from the machine.
apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
	install -y --no-install-recommends --no-remove --allow-downgrades "$@" </dev/null
