#!/bin/sh
# Builds the libraries that wheels contain: static, position-independent, in PREFIX. cibuildwheel runs it once for each
# platform; pyproject.toml has the rest. A new version: change it here with the SHA-256 that its release publishes.
#
#   packaging/wheels/libraries.sh PREFIX
set -eu
prefix=${1:?where to}

nghttp2=1.70.0
nghttp2_sha256=aa317e2cf9dca6afa0aed68f8fad6ff303ec6982e25a78c75c0b65e2b9b3ded5
openssl=3.5.9 # a series with long-term support
openssl_sha256=603f5602e2eef00d77fbd429d34dcd5822bb301757a1bc9cdb24c670f1eb859a

# OpenSSL looks here for its configuration. There is none: one of the system may be for another version. The authorities
# that the system trusts are found by fasttunnel itself (control/tls.py).
openssl_directory=/var/empty/fasttunnel-openssl

jobs=$(getconf _NPROCESSORS_ONLN)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What building OpenSSL needs and the images of manylinux and musllinux do not have.
if command -v dnf >/dev/null; then
    dnf install -y perl-core >/dev/null
elif command -v apk >/dev/null; then
    apk add --quiet perl linux-headers
fi

# get URL SHA256: the unpacked directory, in $work; a directory of that name in $SOURCES is taken instead.
get() {
    name=$(basename "$1" .tar.gz)
    if [ -d "${SOURCES:-/nonexistent}/$name" ]; then
        cp -R "$SOURCES/$name" "$work/$name"
        return
    fi
    curl --fail --silent --show-error --location --proto '=https' --retry 3 -o "$work/$name.tar.gz" "$1"
    if command -v sha256sum >/dev/null; then
        echo "$2  $work/$name.tar.gz" | sha256sum -c -
    else
        echo "$2  $work/$name.tar.gz" | shasum -a 256 -c -
    fi
    tar -xzf "$work/$name.tar.gz" -C "$work"
}

get "https://github.com/nghttp2/nghttp2/releases/download/v$nghttp2/nghttp2-$nghttp2.tar.gz" $nghttp2_sha256
cmake -S "$work/nghttp2-$nghttp2" -B "$work/nghttp2" \
    -DCMAKE_BUILD_TYPE=Release -DENABLE_LIB_ONLY=ON -DENABLE_DOC=OFF -DBUILD_TESTING=OFF \
    -DBUILD_SHARED_LIBS=OFF -DBUILD_STATIC_LIBS=ON \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_C_VISIBILITY_PRESET=hidden \
    -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib
cmake --build "$work/nghttp2" --parallel "$jobs" --target install

get "https://github.com/openssl/openssl/releases/download/openssl-$openssl/openssl-$openssl.tar.gz" $openssl_sha256
cd "$work/openssl-$openssl"
./config no-shared no-module no-tests no-docs no-apps no-legacy no-comp -fPIC -fvisibility=hidden \
    --prefix="$prefix" --libdir=lib --openssldir=$openssl_directory
make -j"$jobs" build_libs >/dev/null
make install_dev >/dev/null
