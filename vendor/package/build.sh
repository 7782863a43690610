# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# What `./build.sh install` puts where, and what `./build.sh package` makes of it: tarballs, .deb,
# an OCI image, a list of what is inside. The same sources give the same bytes, whoever builds them.
# Sourced by build.sh; does nothing by itself.

DIST=build/dist
# What users of the image are: a number, as it has no /etc/passwd.
IMAGE_USER=65532
MAINTAINER="The presence authors <presence@packages.invalid>"

# ==== Targets =====================================================================================

# Prints what Debian calls the processor of this machine.
host_arch() {
    case $(uname -m) in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    armv7l) echo armhf ;;
    *) die "no packages are made on a $(uname -m); only on amd64, arm64 and armhf" ;;
    esac
}

# Prints the program for an architecture, and builds it; the host's is build/presence.
build_arch() {
    if [ "$1" = "$(host_arch)" ]; then
        build_release >&2
        echo build/presence
    else
        mkdir -p build/cross
        build_program "release-$1" "$SOURCE" "build/cross/presence-$1" >&2
        echo "build/cross/presence-$1"
    fi
}

# Prints the version.
package_version() {
    sed -n 's/^#define PRESENCE_VERSION "\(.*\)"$/\1/p' "$SOURCE"
}

# Sets SOURCE_DATE_EPOCH, the time of everything that is packed: by default that of the last commit.
package_date() {
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null ||
        stat -c %Y "$SOURCE")}
}

# ==== Files =======================================================================================

# Installs a file ($2) as $3, with mode $1.
put() {
    mkdir -p "$(dirname "$3")"
    install -m "$1" "$2" "$3"
}

# Installs everything below a folder: $1 that folder, $2 the prefix, $3 where configuration is,
# $4 the program, $5 one that runs here. The names are those where each looks for its own.
install_files() {
    local root=$1$2 system=$3 program=$4 runs=$5 file name zsh=site-functions
    [ "$2" != /usr ] || zsh=vendor-completions # what Debian has for packages
    put 755 "$program" "$root/bin/presence"
    for file in man/*.[1-8]; do
        put 644 "$file" "$root/share/man/man${file##*.}/${file##*/}"
    done
    for file in vendor/package/*.service vendor/package/*.socket; do
        name=${file##*/}
        mkdir -p "$root/lib/systemd/system"
        sed -e "s|@bindir@|$2/bin|; s|@sysconfdir@|$system|" "$file" \
            >"$root/lib/systemd/system/$name"
        chmod 644 "$root/lib/systemd/system/$name"
    done
    put 644 vendor/package/presence.sysusers "$root/lib/sysusers.d/presence.conf"
    for name in bash-completion/completions/presence zsh/$zsh/_presence \
        fish/vendor_completions.d/presence.fish; do
        mkdir -p "$(dirname "$root/share/$name")"
        "$runs" --completion "${name%%[-/]*}" >"$root/share/$name"
        chmod 644 "$root/share/$name"
    done
    for file in presence.conf alerts.yml grafana.json; do
        put 644 "vendor/package/$file" "$root/share/doc/presence/examples/$file"
    done
    put 644 $GEN/licenses.txt "$root/share/doc/presence/LICENSES"
}

# Gives everything below a folder the time of all that is packed, and no other rights than those
# that the owner has.
same_times() {
    find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# Packs what is in a folder ($1) as $2, by the names that follow, the same bytes each time.
same_tar() {
    local from=$1 to=$2
    shift 2
    tar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --numeric-owner --format=ustar -C "$from" \
        "${TAR_OWNER[@]}" -cf "$to" "$@"
}
TAR_OWNER=(--owner=0 --group=0)

# ==== Tarball =====================================================================================

# Makes the tarball of an architecture: its folders are those of a prefix.
package_tarball() {
    local arch=$1 program=$2 name
    name=presence-$VERSION-linux-$arch
    rm -rf "$DIST/tree"
    install_files "$DIST/tree/$name" "" /etc "$program" "$RUNS"
    # There the prefix is not known: /usr/local is where README.md unpacks it.
    sed -i 's|^ExecStart=/bin/|ExecStart=/usr/local/bin/|' \
        "$DIST/tree/$name/lib/systemd/system/presence.service"
    same_tar "$DIST/tree" "$DIST/$name.tar" "$name"
    gzip -9nf "$DIST/$name.tar"
    rm -rf "$DIST/tree"
}

# ==== .deb ========================================================================================

# Prints the licences as Debian wants them: the Apache License is on every machine already.
debian_copyright() {
    sed -e '/^======== Mbed TLS (/,/^======== Mbed TLS:/{/^======== Mbed TLS/!d;}' \
        -e '/^======== Mbed TLS (/a \
\
Copyright The Mbed TLS Contributors. The text of the Apache License, version 2.0, is in\
/usr/share/common-licenses/Apache-2.0 on Debian systems.\
' $GEN/licenses.txt
}

# Makes the package of an architecture.
package_deb() {
    local arch=$1 program=$2 root=$DIST/deb file
    rm -rf "$root"
    install_files "$root" /usr /etc "$program" "$RUNS"
    rm -r "$root/usr/lib/sysusers.d" # postinst makes the user
    put 644 vendor/package/presence.conf "$root/etc/presence/presence.conf"
    put 644 vendor/package/debian/overrides "$root/usr/share/lintian/overrides/presence"
    gzip -9n "$root"/usr/share/man/man*/*
    rm "$root/usr/share/doc/presence/LICENSES"
    debian_copyright >"$root/usr/share/doc/presence/copyright"
    # Debian 12 has its units there, and both are one folder where /lib is a link.
    mkdir -p "$root/lib"
    mv "$root/usr/lib/systemd" "$root/lib/"
    rmdir "$root/usr/lib"
    {
        echo "presence ($VERSION-1) stable; urgency=medium"
        printf '\n  * What is new is in presence(1), HISTORY.\n\n'
        echo " -- $MAINTAINER  $(date -Ru -d "@$SOURCE_DATE_EPOCH")"
    } | gzip -9n >"$root/usr/share/doc/presence/changelog.Debian.gz"
    mkdir -p "$root/DEBIAN"
    for file in postinst prerm postrm; do
        put 755 "vendor/package/debian/$file" "$root/DEBIAN/$file"
    done
    echo /etc/presence/presence.conf >"$root/DEBIAN/conffiles"
    (cd "$root" && find etc lib usr -type f -print0 | sort -z | xargs -0 md5sum) \
        >"$root/DEBIAN/md5sums"
    sed -e "s|@version@|$VERSION-1|; s|@arch@|$arch|; s|@maintainer@|$MAINTAINER|" \
        -e "s|@size@|$(du -k -s --apparent-size "$root" | cut -f 1)|" \
        vendor/package/debian/control >"$root/DEBIAN/control"
    chmod -R go=rX "$root"
    same_times "$root"
    dpkg-deb --root-owner-group -Zxz -z9 --build "$root" "$DIST/presence_$VERSION-1_$arch.deb" \
        >/dev/null
    rm -rf "$root"
}

# ==== OCI image ===================================================================================

# Prints the SHA-256 of a file.
sha256_of() {
    sha256sum <"$1" | cut -c 1-64
}

# Moves a file to the blobs of the image; sets DIGEST and SIZE.
blob() {
    DIGEST=sha256:$(sha256_of "$1")
    SIZE=$(size_of "$1")
    mv "$1" "$DIST/oci/blobs/sha256/${DIGEST#*:}"
}

# Makes the part of the image for an architecture, and prints its entry in the list: a layer with
# the program, the licences and an empty /data that is the user's.
image_part() {
    local arch=$1 program=$2 work=$DIST/oci-work raw layer date os
    rm -rf "$work"
    mkdir -p "$work/root/data" "$work/root/tmp"
    put 755 "$program" "$work/root/presence"
    put 644 $GEN/licenses.txt "$work/root/LICENSES"
    chmod 700 "$work/root/data"
    chmod 1777 "$work/root/tmp"
    same_tar "$work/root" "$work/layer.tar" presence LICENSES tmp
    TAR_OWNER=("--owner=$IMAGE_USER" "--group=$IMAGE_USER")
    same_tar "$work/root" "$work/data.tar" data
    TAR_OWNER=(--owner=0 --group=0)
    tar -Af "$work/layer.tar" "$work/data.tar"
    raw=$(sha256_of "$work/layer.tar")
    gzip -9n "$work/layer.tar"
    blob "$work/layer.tar.gz"
    layer="\"digest\":\"$DIGEST\",\"size\":$SIZE"
    date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    os="\"os\":\"linux\",\"architecture\":\"$arch\""
    [ "$arch" != armhf ] || os='"os":"linux","architecture":"arm","variant":"v7"'
    cat >"$work/config.json" <<END
{"created":"$date",$os,
"config":{"User":"$IMAGE_USER:$IMAGE_USER","Entrypoint":["/presence"],"WorkingDir":"/data",
"Env":["PRESENCE_DATA=/data","PRESENCE_LISTEN=0.0.0.0:8080"],"ExposedPorts":{"8080/tcp":{}},
"Volumes":{"/data":{}},"StopSignal":"SIGTERM",
"Labels":{"org.opencontainers.image.title":"presence","org.opencontainers.image.version":"$VERSION",
"org.opencontainers.image.licenses":"MIT","org.opencontainers.image.description":"who is online"}},
"rootfs":{"type":"layers","diff_ids":["sha256:$raw"]},
"history":[{"created":"$date","created_by":"./build.sh package"}]}
END
    blob "$work/config.json"
    cat >"$work/manifest.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"$DIGEST","size":$SIZE},
"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip",$layer}]}
END
    blob "$work/manifest.json"
    echo "{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"$DIGEST\"," \
        "\"size\":$SIZE,\"platform\":{$os}}"
    rm -rf "$work"
}

# Makes the image of all architectures ($@: ARCH=PROGRAM), as an archive of an OCI layout, which
# podman, skopeo and Docker 25 load.
package_image() {
    local part parts='' comma=''
    rm -rf "$DIST/oci"
    mkdir -p "$DIST/oci/blobs/sha256"
    for part; do
        parts+=$comma$(image_part "${part%%=*}" "${part#*=}")
        comma=,
    done
    printf '{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}\n' \
        application/vnd.oci.image.index.v1+json "$parts" >"$DIST/oci/list.json"
    blob "$DIST/oci/list.json"
    cat >"$DIST/oci/index.json" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"$DIGEST","size":$SIZE,
"annotations":{"org.opencontainers.image.ref.name":"presence:$VERSION"}}]}
END
    echo '{"imageLayoutVersion":"1.0.0"}' >"$DIST/oci/oci-layout"
    chmod -R u=rwX,go=rX "$DIST/oci"
    same_tar "$DIST/oci" "$DIST/presence-$VERSION-oci.tar" blobs index.json oci-layout
    rm -rf "$DIST/oci"
}

# ==== What is inside ==============================================================================

# Prints the licence of an embedded library, as SPDX names it.
spdx_license() {
    case $1 in
    civetweb | musl) echo MIT ;;
    hiredis) echo BSD-3-Clause ;;
    lmdb) echo OLDAP-2.8 ;;
    mbedtls) echo Apache-2.0 ;;
    *) die "vendor/lock: the licence of $1 is not known, see vendor/package/build.sh" ;;
    esac
}

# Prints "NAME VERSION FILE SHA-256" of what is embedded: the archives of the locks but for those
# that hold only Debian's patches.
embedded() {
    sed -n 's/^archive  *//p' vendor/lock vendor/package/lock | grep -v '\.debian\.tar'
}

# Writes the list: SPDX 2.3, by vendor/lock.
package_spdx() {
    local name version file hash license ids='"SPDXRef-presence"' all relations='' date
    date=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    all='{"SPDXID":"SPDXRef-presence","name":"presence","versionInfo":"'$VERSION'",
"downloadLocation":"NOASSERTION","filesAnalyzed":false,"licenseConcluded":"MIT",
"licenseDeclared":"MIT","copyrightText":"Copyright (c) 2026 the presence authors"}'
    while read -r name version file hash; do
        license=$(spdx_license "$name")
        all+=',
{"SPDXID":"SPDXRef-'$name'","name":"'$name'","versionInfo":"'${version%%-*}'",
"packageFileName":"'$file'","checksums":[{"algorithm":"SHA256","checksumValue":"'$hash'"}],
"downloadLocation":"NOASSERTION","filesAnalyzed":false,"licenseConcluded":"'$license'",
"licenseDeclared":"NOASSERTION","copyrightText":"NOASSERTION","sourceInfo":"Debian '$version'"}'
        relations+=',
{"spdxElementId":"SPDXRef-presence","relationshipType":"CONTAINS",
"relatedSpdxElement":"SPDXRef-'$name'"}'
    done < <(embedded)
    cat <<END
{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT",
"name":"presence-$VERSION",
"documentNamespace":"urn:presence:$VERSION:$(cat vendor/lock vendor/package/lock | hash_stdin)",
"creationInfo":{"created":"$date","creators":["Tool: build.sh package"]},
"documentDescribes":[$ids],
"packages":[$all],
"relationships":[{"spdxElementId":"SPDXRef-DOCUMENT","relationshipType":"DESCRIBES",
"relatedSpdxElement":"SPDXRef-presence"}$relations]}
END
}
