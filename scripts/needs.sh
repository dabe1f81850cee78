# What the build, the demo and the tests need besides Rust. Sourced by ./check and ./demo.

# A C compiler (ring, jemalloc, SQLite) and cmake (zlib-ng, through pingora).
BUILD_PACKAGES="build-essential cmake"
# Peers and clients of the process tests and of the comparison, the browser that tests the chat page, and what counts the instructions of a pick.
TEST_PACKAGES="chromium chromium-driver curl mosquitto mosquitto-clients nginx libnginx-mod-stream haproxy python3-websockets valgrind iproute2 strace"

# Installs the Debian packages that are missing.
need_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  echo "installing Debian packages: ${missing[*]}"
  local as_root=""
  [ "$(id -u)" = 0 ] || as_root=sudo
  $as_root apt-get update -qq
  # Their services are not wanted: tests start their own, on ports of their own.
  $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The test runner.
need_nextest() {
  command -v cargo-nextest >/dev/null && return 0
  echo "installing cargo-nextest (a few minutes)"
  cargo install --locked --quiet cargo-nextest
}
