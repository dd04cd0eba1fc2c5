#!/usr/bin/env bash
# Turns a stock Debian 12 into Fleetsight's image for one role:
#
#   provision.sh --role worker|web --source DIR [--wheelhouse DIR] [--agents]
#
# --source      An unpacked source archive (ami/archive.py): services, core, app_tier, web_tier, ami, config.yaml,
#               requirements, bundle, version.json.
# --wheelhouse  Install Python packages from the wheels in this folder, without a network. The default is the Python
#               package index.
# --agents      Also install the CloudWatch agent and the SSM Agent, which are only available from AWS.
#
# If version.json says "engine": "torch", the workers' image also contains torch, and NVIDIA's driver unless
# --wheelhouse is given. A builder instance (fleetsight bake) or a container runs this script as root. It is idempotent.
set -Eeuo pipefail
umask 022
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

readonly HOME_DIR=/opt/fleetsight
readonly PYTHON=$HOME_DIR/venv/bin/python
readonly CLOUDWATCH_KEY=937616F3450B7D806CBD9725D58167303B789C72 SSM_KEY=1C5B395CBE5E74E2F1CA21592784DBF388D19D46
readonly NVIDIA_KEY=EB693B3035CD5710E231E123A4B469963BF863CC NVIDIA_BRANCH=580
role='' source='' wheelhouse='' agents=no engine='' step='the arguments'

say() { echo "provision: $*" >&2; }
fail() { say "failed at ${step}: $*"; exit 1; }
trap 'trap - ERR; fail "line $LINENO: $BASH_COMMAND"' ERR

read_arguments() {
  while [ $# -gt 0 ]; do
    case "$1" in
      --role) role=${2-} && shift 2 || fail "--role needs worker or web" ;;
      --source) source=${2-} && shift 2 || fail "--source needs a folder" ;;
      --wheelhouse) wheelhouse=${2-} && shift 2 || fail "--wheelhouse needs a folder" ;;
      --agents) agents=yes && shift ;;
      *) fail "unknown argument '$1'; there are: --role worker|web --source DIR [--wheelhouse DIR] [--agents]" ;;
    esac
  done
  case "$role" in worker | web) ;; *) fail "--role '$role' is neither worker nor web" ;; esac
  [ "$(id -u)" -eq 0 ] || fail "this must be run as root"
  [ "$(. /etc/os-release && echo "$ID-$VERSION_ID")" = debian-12 ] || fail "this is not Debian 12, the base of the image"
  local part
  for part in services core app_tier web_tier ami config.yaml "requirements/$role.txt" bundle/bundle.json version.json; do
    [ -e "$source/$part" ] || fail "$source has no $part: give --source the folder of an unpacked source archive"
  done
  [ -z "$wheelhouse" ] || [ -d "$wheelhouse" ] || fail "there is no folder $wheelhouse (--wheelhouse)"
  engine=$(sed -n 's/.*"engine": "\([a-z]*\)".*/\1/p' "$source/version.json")
  case "$engine" in openvino | torch) ;; *) fail "version.json names the engine '$engine'; it must be openvino or torch" ;; esac
  ! has_gpu_driver || [ "$(uname -m)" = x86_64 ] || fail "NVIDIA's driver and torch with CUDA are for x86_64, not for $(uname -m)"
}

has_torch() { [ "$role" = worker ] && [ "$engine" = torch ]; }

has_gpu_driver() { has_torch && [ -z "$wheelhouse" ]; }

# OpenTelemetry's packages are installed only if config.yaml names a collector.
has_tracing() { sed -n '/^tracing:/,/^[a-z]*:$/s/^  endpoint: *//p' "$source/config.yaml" | grep -qvE '^(null|~)? *(#.*)?$'; }

section() { # FILE SECTION...: prints the packages in these sections of packages.txt
  local file=$1
  shift
  awk -v wanted=" $* " '/^# \[/ { gsub(/[][]/, "", $2); on = index(wanted, " " $2 " "); next } on && NF && !/^#/' "$file"
}

is_installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Debian's timers can hold apt's lock in the first minutes after boot, and a download can fail.
apt_get() { apt-get --quiet=2 -o DPkg::Lock::Timeout=300 -o Acquire::Retries=5 "$@"; }

install_packages() {
  local wanted=(both) missing=() package
  [ "$role" = web ] && wanted+=(web)
  [ "$agents" = yes ] && wanted+=(agents)
  has_gpu_driver && wanted+=(gpu)
  for package in $(section "$source/ami/packages.txt" "${wanted[@]}"); do
    is_installed "$package" || missing+=("$package")
  done
  if [ ${#missing[@]} -gt 0 ]; then
    say "from Debian: ${missing[*]}"
    systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || true
    apt_get update
    apt_get upgrade --yes -o Dpkg::Options::=--force-confold >/dev/null
    apt_get install --yes --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

# A base image for both roles also contains the web tier's packages.
remove_packages_of_the_other_role() {
  local package unwanted=()
  [ "$role" = worker ] || return 0
  for package in $(section "$source/ami/packages.txt" web); do
    is_installed "$package" && unwanted+=("$package" "$package-common")
  done
  [ ${#unwanted[@]} -eq 0 ] || apt_get purge --yes "${unwanted[@]}" >/dev/null
}

make_users() {
  local user users=(fleetsight-worker)
  [ "$role" = web ] && users=(fleetsight-web fleetsight-controller)
  for user in "${users[@]}"; do
    id "$user" >/dev/null 2>&1 \
      || useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
  done
}

install_python() {
  local from=() sections=("$role") section requirements=()
  rm -rf "$HOME_DIR/venv"
  mkdir -p "$HOME_DIR"
  has_torch && sections+=(gpu)
  has_gpu_driver && sections+=(cuda)
  has_tracing && sections+=(telemetry)
  for section in "${sections[@]}"; do requirements+=(-r "$source/requirements/$section.txt"); done
  [ -n "$wheelhouse" ] && from=(--no-index --find-links "$wheelhouse")
  python3 -m venv "$HOME_DIR/venv"
  "$PYTHON" -m pip install --quiet --no-input --disable-pip-version-check --no-cache-dir --no-compile --only-binary :all: \
    --require-hashes --no-deps "${from[@]}" "${requirements[@]}"
  "$PYTHON" -m pip check --quiet --disable-pip-version-check
  # A running instance installs no packages.
  "$PYTHON" -m pip uninstall --quiet --yes --disable-pip-version-check setuptools pip
}

install_code() {
  local folders=(services core app_tier) app=$HOME_DIR/app
  [ "$role" = web ] && folders=(services core web_tier)
  rm -rf "$app" "$HOME_DIR/bundle"
  mkdir -p "$app"
  cp -r "${folders[@]/#/$source/}" "$source/config.yaml" "$app/"
  # The demo is only for trying and building; instances do not run it.
  rm -rf "$app/app_tier/demo"
  cp -r "$source/bundle" "$HOME_DIR/bundle"
  chown -R root:root "$HOME_DIR"
  chmod -R u=rwX,go=rX "$HOME_DIR"
  # Saves half a second at each start. Nothing imports the packages' tests, which are a fifth of the code; those of
  # torch contain a file that only Python 3.12 and newer can compile.
  "$PYTHON" -m compileall -q -j 0 -x '/(tests|torch/testing)/' "$app" "$HOME_DIR/venv/lib"
}

install_files() {
  local part parts=(common "$role")
  [ "$agents" = yes ] && parts+=(agents "agents-$role")
  has_gpu_driver && parts+=(gpu)
  for part in "${parts[@]}"; do
    cp -r --no-preserve=mode,ownership "$source/ami/files/$part/." /
  done
  find "$HOME_DIR" -maxdepth 1 -type f ! -name '*.*' -exec chmod 755 {} +
  install -d -m 755 /etc/fleetsight
  sed "s/{/{\"role\": \"$role\", /" "$source/version.json" >"$HOME_DIR/version.json"
}

signed_by() { # FINGERPRINT KEYS SIGNATURE FILE: succeeds if the unexpired key with this fingerprint signed FILE
  local home said
  home=$(mktemp -d)
  gpg --homedir "$home" --batch --quiet --import "$2"
  said=$(gpg --homedir "$home" --batch --quiet --status-fd 1 --verify "$3" "$4" 2>/dev/null || true)
  rm -rf "$home"
  grep -q '^\[GNUPG:\] GOODSIG ' <<<"$said" && grep -q "^\[GNUPG:\] VALIDSIG .*$1\$" <<<"$said"
}

fetch() { # URL FILE
  curl --fail --silent --show-error --location --proto '=https' --tlsv1.2 --retry 5 --max-time 300 --output "$2" "$1" \
    || fail "could not fetch $1"
}

# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/verify-CloudWatch-Agent-Package-Signature.html and
# https://docs.aws.amazon.com/systems-manager/latest/userguide/verify-agent-signature.html document where
# the packages are and which keys sign them. AWS publishes the second key only on that page and replaces it at times.
install_agents() {
  local cloudwatch=https://amazoncloudwatch-agent.s3.amazonaws.com arch work
  local ssm=https://s3.amazonaws.com/ec2-downloads-windows/SSMAgent/latest
  [ "$agents" = yes ] || return 0
  arch=$(dpkg --print-architecture)
  work=$(mktemp -d)
  fetch "$cloudwatch/assets/amazon-cloudwatch-agent.gpg" "$work/cloudwatch.gpg"
  fetch "$cloudwatch/debian/$arch/latest/amazon-cloudwatch-agent.deb" "$work/cloudwatch.deb"
  fetch "$cloudwatch/debian/$arch/latest/amazon-cloudwatch-agent.deb.sig" "$work/cloudwatch.sig"
  signed_by "$CLOUDWATCH_KEY" "$work/cloudwatch.gpg" "$work/cloudwatch.sig" "$work/cloudwatch.deb" \
    || fail "CloudWatch's agent is not signed by the key $CLOUDWATCH_KEY: it is not installed"
  fetch "$ssm/debian_$arch/amazon-ssm-agent.deb" "$work/ssm.deb"
  fetch "$ssm/debian_$arch/amazon-ssm-agent.deb.sig" "$work/ssm.sig"
  signed_by "$SSM_KEY" "$source/ami/keys/amazon-ssm-agent.asc" "$work/ssm.sig" "$work/ssm.deb" \
    || fail "Session Manager's agent is not signed by the key $SSM_KEY of ami/keys: if AWS has a new key, put it there"
  dpkg --install "$work/cloudwatch.deb" "$work/ssm.deb" >/dev/null
  rm -rf "$work"
  systemctl --quiet enable amazon-ssm-agent.service
  # start-logs starts it once it has configured this stack's log groups.
  systemctl --quiet disable amazon-cloudwatch-agent.service
  systemctl stop amazon-ssm-agent.service 2>/dev/null || true
}

holds_only() { # FINGERPRINT KEYS: succeeds if the file contains this key and no other
  local home shown
  home=$(mktemp -d)
  shown=$(gpg --homedir "$home" --batch --quiet --show-keys --with-colons "$2" || true)
  rm -rf "$home"
  [ "$(grep -c '^pub:' <<<"$shown" || true)" = 1 ] && grep -m 1 '^fpr:' <<<"$shown" | grep -q ":$1:"
}

# Prints the kernel that the image boots: the builder's own, or a newer one that apt has installed.
newest_kernel() { find /lib/modules -mindepth 1 -maxdepth 1 -printf '%f\n' | sort --version-sort | tail -n 1; }

# configure_debian removes this package source again, so that an image keeps the driver that it was baked with.
add_nvidias_packages() {
  local repository=https://developer.download.nvidia.com/compute/cuda/repos/debian12/x86_64
  local key=/usr/share/keyrings/nvidia.asc
  fetch "$repository/3bf863cc.pub" "$key"
  holds_only "$NVIDIA_KEY" "$key" || fail "$repository/3bf863cc.pub is not the key $NVIDIA_KEY alone: the driver is not installed"
  echo "deb [signed-by=$key] $repository/ /" >/etc/apt/sources.list.d/nvidia.list
  # Some of NVIDIA's packages depend on a package in Debian's `contrib`.
  sed --in-place 's/^Components: main$/Components: main contrib/' /etc/apt/sources.list.d/debian.sources
  apt_get update
}

# torch is built for CUDA 13, which needs NVIDIA's driver 580; Debian 12 has 535:
# https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/
# NVIDIA's packages for Debian 12 include a compute-only driver and a package that pins the branch:
# https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/
# They work with the kernel of Debian's cloud images and a T4:
# https://github.com/GoogleCloudDataproc/initialization-actions/pull/1400
install_gpu_driver() {
  local install=(apt_get install --yes --no-install-recommends) kernel
  has_gpu_driver || return 0
  add_nvidias_packages
  "${install[@]}" "nvidia-driver-pinning-$NVIDIA_BRANCH" >/dev/null
  kernel=$(newest_kernel)
  "${install[@]}" "linux-headers-$kernel" nvidia-kernel-open-dkms nvidia-driver-cuda nvidia-modprobe >/dev/null
  dkms autoinstall --kernelver "$kernel" >/dev/null
  modinfo --set-version "$kernel" nvidia-uvm >/dev/null || fail "NVIDIA's module was not built for the kernel $kernel"
  say "NVIDIA's driver $(modinfo --set-version "$kernel" --field version nvidia) for the kernel $kernel"
}

# nginx serves the static files of the web tier, in a folder of their hash. Text files also get a gzip copy.
install_static_files() {
  local static=$HOME_DIR/static
  [ "$role" = web ] || return 0
  rm -rf "$static" /etc/nginx/sites-enabled/default
  (cd "$HOME_DIR/app" && "$PYTHON" -m web_tier.http.assets "$static")
  find "$static" -type f '(' -name '*.js' -o -name '*.css' -o -name '*.svg' ')' -exec gzip --keep --best --no-name {} +
}

# Lists the files that a start of this role reads. Their order hardly matters: they are read in parallel.
list_what_is_read_early() {
  local modules=(app_tier.startup app_tier.worker)
  [ "$role" = web ] && modules=(web_tier.app web_tier.gunicorn web_tier.controller.services gunicorn.app.wsgiapp)
  has_torch && modules+=(torch)
  (cd "$HOME_DIR/app" && PYTHONPATH=. "$PYTHON" "$source/ami/used_files.py" "$HOME_DIR/bundle" "${modules[@]}") >"$HOME_DIR/read-early.txt"
  say "$(wc -l <"$HOME_DIR/read-early.txt") files are read early"
}

enable_units() {
  # These units start at every boot. User data calls `start`, which starts the role's units.
  systemctl --quiet enable fleetsight-read-early.service chrony.service
  if [ "$role" = worker ]; then
    systemctl --quiet enable fleetsight-unstarted@worker.timer
  else
    systemctl --quiet enable fleetsight-unstarted@ready.timer
    # nginx cannot start without its certificate, which fleetsight-prepare writes on the instance.
    systemctl --quiet disable nginx.service
  fi
  # Logins over SSH or a console are disabled: operators use Session Manager. cloud-init ends after its network stage.
  systemctl --quiet mask ssh.service ssh.socket getty@tty1.service serial-getty@ttyS0.service console-getty.service \
    cloud-config.service cloud-final.service cloud-init-hotplugd.socket systemd-timesyncd.service
}

configure_debian() {
  local archive
  # Find the URL of Debian's archive. An AMI has it in mirror lists, and a local build in a line of sources.list.
  archive=$(cat /etc/apt/mirrors/debian.list /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null \
    | grep -oE 'https?://[^ ]+/debian(/| |$)' | head -n 1 | tr -d ' ' || true)
  [ -n "$archive" ] || fail "there is no address of Debian's archive in /etc/apt"
  archive=https://${archive#*://}
  archive=${archive%/}
  # chrony uses only the Amazon Time Sync Service: instances reach the internet only over HTTPS.
  sed --in-place '/^pool /d' /etc/chrony/chrony.conf
  rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/mirrors
  cat >/etc/apt/sources.list.d/debian.sources <<SOURCES
Types: deb
URIs: $archive
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: $archive-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
}

# Deletes what must be unique to an instance, and all traces of the builder.
clean() {
  rm -rf /etc/ssh/ssh_host_* /root/.ssh /root/.cache /root/.bash_history /root/.python_history /root/.wget-hsts \
    /home/*/.ssh /home/*/.bash_history /var/lib/cloud/* /var/lib/dhcp/* /var/lib/systemd/random-seed \
    /var/lib/amazon/ssm/* /opt/aws/amazon-cloudwatch-agent/logs/* /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/lib/dpkg/*-old /tmp/pip-*
  local user
  for user in admin debian; do # which cloud-init created for SSH logins
    ! id "$user" >/dev/null 2>&1 || userdel --force --remove "$user" 2>/dev/null
  done
  rm -f /etc/sudoers.d/90-cloud-init-users
  find /var/log -type f -delete
  rm -rf /var/log/journal/*
  # systemd creates the machine id at the first boot of each instance. D-Bus must use it too, to be unique.
  : >/etc/machine-id
  mkdir -p /var/lib/dbus
  ln --symbolic --force /etc/machine-id /var/lib/dbus/machine-id
  # systemd-resolved is the DNS resolver, as on Debian's own AMI. Each instance sets its own host name.
  [ "$(readlink /etc/resolv.conf)" = ../run/systemd/resolve/stub-resolv.conf ] \
    || ln --symbolic --force ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
  # nss-resolve needs AF_UNIX to reach systemd-resolved (man 8 nss-resolve). Our units may not use it, so they use DNS.
  sed --in-place 's/^hosts:.*/hosts:          files dns/' /etc/nsswitch.conf
  echo localhost >/etc/hostname
  printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >/etc/hosts
}

run() { # FUNCTION STEP: runs the function and logs how long it took
  local began=$SECONDS
  step=$2
  "$1"
  say "$2: done in $((SECONDS - began)) s"
}

main() {
  read_arguments "$@"
  say "$role image from $source"
  run install_packages "Debian's packages"
  run remove_packages_of_the_other_role "packages of the other role"
  run make_users "service users"
  run install_python "Python's packages"
  run install_code "application and bundle"
  run install_files "units and settings"
  run install_static_files "static files"
  run install_agents "AWS's agents"
  run install_gpu_driver "NVIDIA's driver"
  run configure_debian "Debian's settings"
  run enable_units "units"
  run list_what_is_read_early "files to read early"
  run clean "cleaning"
  say "this is now the $role image"
}

main "$@"
