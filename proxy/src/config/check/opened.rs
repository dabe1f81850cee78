//! What stands in the files that a configuration names.
//!
//! A problem of such a file is shown at the value that names it: that is where an operator is looking. Only overrides,
//! which are written by hand, are shown at their own place. Contents are never quoted: some of them are keys.

use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use geoip::Knows;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::findings::Scope;
use crate::affinity::keys::{self, TokenKeys};
use crate::config::CertificateFiles;
use crate::config::diagnostic::{Problem, Severity, line_and_column};
use crate::config::raw::{Placed, RawCertificate};
use crate::tls::TicketKeys;

/// A chain, its key, and whether they belong together.
pub(super) fn certificate(files: &CertificateFiles, raw: &RawCertificate, scope: &mut Scope<'_, '_>) {
    let chain = certificates(&files.chain, &raw.chain, scope);
    let key = private_key(&files.key, &raw.key, scope);
    let (Some(chain), Some(key)) = (chain, key) else { return };
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            let (key, chain) = (files.key.display(), files.chain.display());
            let problem = scope.error(raw.key.span(), format!("{key} is not the key of the certificate in {chain}"));
            problem.help("the certificate of this key must be the first one in the chain");
        }
        Err(cause) => {
            let (key, chain) = (files.key.display(), files.chain.display());
            scope.error(raw.key.span(), format!("{chain} and {key} cannot be used: {cause}"));
        }
    }
}

/// A file of authorities to believe.
pub(super) fn authorities(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) {
    let Some(certificates) = certificates(path, written, scope) else { return };
    let mut store = rustls::RootCertStore::empty();
    for (nth, certificate) in certificates.into_iter().enumerate() {
        if let Err(cause) = store.add(certificate) {
            let message = format!("certificate {} in {} cannot be used: {cause}", nth + 1, path.display());
            scope.error(written.span(), message);
        }
    }
}

fn certificates(
    path: &Path,
    written: &Placed<String>,
    scope: &mut Scope<'_, '_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let pem = read(path, written, scope)?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(certificates) if certificates.is_empty() => {
            scope
                .error(written.span(), format!("{} holds no certificate", path.display()))
                .help("a PEM file is needed");
            None
        }
        Ok(certificates) => Some(certificates),
        Err(cause) => {
            scope.error(written.span(), format!("{} is not PEM: {}", path.display(), fault(&cause)));
            None
        }
    }
}

/// In our words, because the library's own may quote the line that it could not read.
fn fault(cause: &pem::Error) -> &'static str {
    match cause {
        pem::Error::MissingSectionEnd { .. } => "the end of a section is missing",
        pem::Error::IllegalSectionStart { .. } => "a section starts with a line that is none",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be decoded",
    }
}

fn private_key(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<PrivateKeyDer<'static>> {
    let pem = read(path, written, scope)?;
    match PrivateKeyDer::from_pem_slice(&pem) {
        Ok(key) => Some(key),
        Err(pem::Error::NoItemsFound) => {
            let problem = scope.error(written.span(), format!("{} holds no private key", path.display()));
            problem.help("an unencrypted PEM file is needed: PKCS#8, PKCS#1 or SEC1");
            None
        }
        Err(cause) => {
            scope.error(written.span(), format!("{} is not PEM: {}", path.display(), fault(&cause)));
            None
        }
    }
}

/// Says which facts the database has.
pub(super) fn database(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<Knows> {
    let bytes = read(path, written, scope)?;
    match geoip::Database::from_bytes(path.display().to_string(), bytes) {
        Ok(database) => Some(database.knows()),
        Err(cause) => {
            unusable(path, written, &cause, scope);
            None
        }
    }
}

/// Says which facts the overrides give.
pub(super) fn overrides(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<Knows> {
    let text = match String::from_utf8(read(path, written, scope)?) {
        Ok(text) => text,
        Err(cause) => {
            unusable(path, written, &cause.utf8_error(), scope);
            return None;
        }
    };
    let problems = match geoip::Overrides::parse(&text) {
        Ok(overrides) => return Some(overrides.knows()),
        Err(problems) => problems,
    };
    for problem in problems {
        let (line, column) = line_and_column(&text, problem.span.start);
        let (file, message, help) = (path.to_owned(), problem.message, problem.help);
        scope.findings.push(Problem { file, line, column, severity: Severity::Error, message, help });
    }
    None
}

/// A token that everybody on the machine can read protects nothing.
pub(super) fn token(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) {
    let Some(bytes) = read(path, written, scope) else { return };
    if bytes.trim_ascii().is_empty() {
        scope.error(written.span(), format!("{} is empty", path.display())).help("it must hold the bearer token");
    }
    warn_if_open_to_all(path, written, scope);
}

/// Who has these can read what was said in sessions that were resumed (RFC 5077 section 5).
pub(super) fn ticket_keys(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) {
    let Some(bytes) = read(path, written, scope) else { return };
    if let Err(fault) = TicketKeys::parse(&String::from_utf8_lossy(&bytes)) {
        let problem = scope.error(written.span(), format!("{} {fault}", path.display()));
        problem.help("a key is a line of `openssl rand -base64 48`");
        return;
    }
    warn_if_open_to_all(path, written, scope);
}

fn warn_if_open_to_all(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) {
    let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode()).unwrap_or_default();
    if mode & 0o004 != 0 {
        let problem = scope.warning(written.span(), format!("everybody can read {}", path.display()));
        problem.help(format!("chmod 600 {}", path.display()));
    }
}

/// A secret for HS256 tokens: whoever has it can be every user.
pub(super) fn token_secret(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) {
    let Some(bytes) = read(path, written, scope) else { return };
    if let Err(fault) = TokenKeys::default().add_secret(&bytes) {
        scope.error(written.span(), format!("{} {fault}", path.display())).help(fault.help());
        return;
    }
    let length = keys::secret_in(&bytes).len();
    if length < keys::SECRET_LENGTH {
        let message = format!("the secret in {} has {length} bytes: it can be guessed", path.display());
        scope.warning(written.span(), message).help("32 random bytes or more: openssl rand -hex 32");
    }
    warn_if_open_to_all(path, written, scope);
}

/// Public keys that tokens are signed with.
pub(super) fn token_keys(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) {
    let Some(bytes) = read(path, written, scope) else { return };
    if let Err(fault) = TokenKeys::default().add_public(&bytes) {
        scope.error(written.span(), format!("{} {fault}", path.display())).help(fault.help());
    }
}

fn unusable(path: &Path, written: &Placed<String>, cause: &dyn Display, scope: &mut Scope<'_, '_>) {
    scope.error(written.span(), format!("{} cannot be used: {cause}", path.display()));
}

fn read(path: &Path, written: &Placed<String>, scope: &mut Scope<'_, '_>) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(cause) => {
            // An empty path was reported already.
            if !written.is_empty() {
                scope.error(written.span(), format!("cannot read {}: {cause}", path.display()));
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use bench::harness::mmdb::{self, Layout, Row};
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    use crate::config::{OpenFiles, load};

    use super::*;

    const CLUSTER: &str = "[clusters.im.localities.here]\nendpoints = [{ address = \"10.0.0.7:5222\" }]\n";

    /// A configuration beside these files, opened: every problem, with the folder cut off the paths.
    fn check(config: &str, files: &[(&str, &[u8])], want: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
            let mode = if *name == "open-token" { 0o644 } else { 0o600 };
            std::fs::set_permissions(folder.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
        }
        let main = folder.path().join("main.toml");
        std::fs::write(&main, config).unwrap();
        assert!(load(&main, OpenFiles::No).is_ok(), "without its files the configuration is right");
        let problems = match load(&main, OpenFiles::Yes) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report.problems,
        };
        let prefix = format!("{}/", folder.path().display());
        let said: Vec<String> = problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect();
        assert_eq!(said, want);
    }

    fn with_tls(certificates: &str) -> String {
        let listener = "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        format!("{listener}tls.certificates = [{certificates}]\n{CLUSTER}")
    }

    #[test]
    fn ticket_keys_are_read_and_nobody_else_may_read_them() {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["im.example.com".to_owned()]).unwrap();
        let (chain, key) = (cert.pem(), signing_key.serialize_pem());
        let line = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
        let files: [(&str, &[u8]); 5] = [
            ("im.pem", chain.as_bytes()),
            ("im.key", key.as_bytes()),
            ("tickets.keys", line.as_bytes()),
            ("open-token", line.as_bytes()),
            ("short.keys", b"AAAA"),
        ];
        let with = |name: &str| {
            let tls = with_tls("{ chain = \"im.pem\", key = \"im.key\" }");
            tls.replace("]\n[clusters", &format!("]\ntls.ticket-keys = \"{name}\"\n[clusters"))
        };
        check(&with("tickets.keys"), &files, &[]);
        let help = "\n   help: ";
        let open = format!("main.toml:6:19: warning: everybody can read open-token{help}chmod 600 open-token");
        check(&with("open-token"), &files, &[&open]);
        let fault = "short.keys has 3 bytes in line 1, where a key has 48";
        let short = format!("main.toml:6:19: error: {fault}{help}a key is a line of `openssl rand -base64 48`");
        check(&with("short.keys"), &files, &[&short]);
    }

    #[test]
    fn a_certificate_and_its_key_belong_together() {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["im.example.com".to_owned()]).unwrap();
        let other = generate_simple_self_signed(["other.example.com".to_owned()]).unwrap();
        let (chain, key, other) = (cert.pem(), signing_key.serialize_pem(), other.signing_key.serialize_pem());
        let files: [(&str, &[u8]); 5] = [
            ("im.pem", chain.as_bytes()),
            ("im.key", key.as_bytes()),
            ("other.key", other.as_bytes()),
            ("empty.pem", b""),
            ("broken.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n"),
        ];
        check(&with_tls("{ chain = \"im.pem\", key = \"im.key\" }"), &files, &[]);
        check(
            &with_tls("{ chain = \"im.pem\", key = \"other.key\" }"),
            &files,
            &["main.toml:5:47: error: other.key is not the key of the certificate in im.pem\n   \
               help: the certificate of this key must be the first one in the chain"],
        );
        check(
            &with_tls("{ chain = \"empty.pem\", key = \"im.pem\" }, { chain = \"broken.pem\", key = \"gone.key\" }"),
            &files,
            &[
                "main.toml:5:31: error: empty.pem holds no certificate\n   help: a PEM file is needed",
                "main.toml:5:50: error: im.pem holds no private key\n   \
                 help: an unencrypted PEM file is needed: PKCS#8, PKCS#1 or SEC1",
                "main.toml:5:72: error: broken.pem is not PEM: the end of a section is missing",
                "main.toml:5:92: error: cannot read gone.key: No such file or directory (os error 2)",
            ],
        );
    }

    #[test]
    fn authorities_databases_overrides_and_tokens_are_read() {
        let authority = generate_simple_self_signed(["ca.example.com".to_owned()]).unwrap().cert.pem();
        let listener = "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let config = |token: &str, overrides: &str, ca: &str| {
            format!(
                "[admin]\ntoken-file = \"{token}\"\n[geoip]\noverrides = \"{overrides}\"\n{listener}\
                 [clusters.im]\ntls = {{ name = \"im\", ca = \"{ca}\" }}\n{CLUSTER}"
            )
        };
        let files: [(&str, &[u8]); 6] = [
            ("token", b"a-secret\n"),
            ("open-token", b"a-secret\n"),
            ("empty", b" \n"),
            ("ca.pem", authority.as_bytes()),
            ("good.toml", b"[\"10.0.0.0/8\"]\ncountry = \"SG\"\n"),
            ("binary", &[0xff, 0xfe]),
        ];
        check(&config("token", "good.toml", "ca.pem"), &files, &[]);
        check(
            &config("open-token", "good.toml", "ca.pem"),
            &files,
            &["main.toml:2:14: warning: everybody can read open-token\n   help: chmod 600 open-token"],
        );
        check(
            &config("empty", "binary", "empty"),
            &files,
            &[
                "main.toml:2:14: error: empty is empty\n   help: it must hold the bearer token",
                "main.toml:4:13: error: binary cannot be used: invalid utf-8 sequence of 1 bytes from index 0",
                "main.toml:10:27: error: empty holds no certificate\n   help: a PEM file is needed",
            ],
        );
    }

    #[test]
    fn rules_by_what_no_database_knows_are_found_out() {
        let listener = "[listeners.im]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"tcp\"\ncluster = \"im\"\n";
        let rules = "[[clusters.im.rules]]\nasn = 64500\nsubdivision = \"DE-BY\"\ncountry = \"FR\"\nlocalities = \"here\"\n\
                     [clusters.im.map]\n\"US/CA\" = \"here\"\n";
        let config =
            |files: &str| format!("[geoip]\ndatabases = [\"country.mmdb\"]\n{files}{listener}{rules}{CLUSTER}");
        let country = mmdb::build(Layout::GeoIp2City, &[Row::new("192.0.2.0/24").country("DE")]).unwrap();
        let files: [(&str, &[u8]); 3] = [
            ("country.mmdb", &country),
            ("more.toml", b"[\"10.0.0.0/8\"]\nasn = 64512\ncountry = \"DE\"\nsubdivision = \"BY\"\n"),
            ("asn.toml", b"[\"10.0.0.0/8\"]\nasn = 64512\n"),
        ];
        let no_divisions = "no client matches this: nothing says in which subdivision one is\n   \
                            help: no file in [geoip] has codes of subdivisions; a city database does";
        check(
            &config(""),
            &files,
            &[
                "main.toml:8:7: warning: no client matches this: nothing says from which autonomous system one comes\n   \
                 help: no file in [geoip] has autonomous systems; a database of them can stand beside that of places",
                &format!("main.toml:9:15: warning: {no_divisions}"),
            ],
        );
        check(&config("overrides = \"asn.toml\"\n"), &files, &[&format!("main.toml:10:15: warning: {no_divisions}")]);
        check(&config("overrides = \"more.toml\"\n"), &files, &[]);
    }

    #[test]
    fn keys_of_tokens_are_read() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let (public, private) = (pair.public_key_pem(), pair.serialize_pem());
        let config = |secret: &str, keys: &str| {
            format!(
                "[listeners.web]\nbind = [\"127.0.0.1:0\"]\nprotocol = \"http\"\nroutes = [{{ cluster = \"im\" }}]\n{CLUSTER}\
                 [clusters.im]\nstickiness = {{}}\nhash-on = [\"user\"]\n\
                 user-token.verify = {{ hs256-secret-file = \"{secret}\", public-key-file = \"{keys}\" }}\n"
            )
        };
        let files: [(&str, &[u8]); 5] = [
            ("secret", b"0123456789abcdef0123456789abcdef\n"),
            ("open-token", b"short\n"),
            ("empty", b"\n"),
            ("public.pem", public.as_bytes()),
            ("private.pem", private.as_bytes()),
        ];
        check(&config("secret", "public.pem"), &files, &[]);
        check(
            &config("open-token", "private.pem"),
            &files,
            &[
                "main.toml:10:43: warning: the secret in open-token has 5 bytes: it can be guessed\n   \
                 help: 32 random bytes or more: openssl rand -hex 32",
                "main.toml:10:43: warning: everybody can read open-token\n   help: chmod 600 open-token",
                "main.toml:10:75: error: private.pem holds a private key, and verifying needs the public one\n   \
                 help: openssl pkey -in KEY -pubout",
            ],
        );
        check(
            &config("empty", "gone.pem"),
            &files,
            &[
                "main.toml:10:43: error: empty is empty\n   help: it must hold the secret, at least 32 random bytes",
                "main.toml:10:70: error: cannot read gone.pem: No such file or directory (os error 2)",
            ],
        );
    }

    #[test]
    fn wrong_overrides_are_shown_at_their_own_place() {
        let config = format!(
            "[geoip]\ndatabases = [\"bad.mmdb\"]\noverrides = \"bad.toml\"\n[listeners.im]\nbind = [\"127.0.0.1:0\"]\n\
             protocol = \"tcp\"\ncluster = \"im\"\n{CLUSTER}"
        );
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("main.toml");
        std::fs::write(&main, config).unwrap();
        std::fs::write(folder.path().join("bad.mmdb"), "not a database").unwrap();
        std::fs::write(folder.path().join("bad.toml"), "[\"10.0.0.0/8\"]\ncuntry = \"SG\"\n").unwrap();
        let problems = load(&main, OpenFiles::Yes).unwrap_err().problems;
        let places: Vec<_> =
            problems.iter().map(|problem| (problem.file.as_path(), problem.line, problem.column)).collect();
        assert_eq!(places, [(main.as_path(), 2, 14), (&*folder.path().join("bad.toml"), 2, 1)]);
        assert!(problems[0].message.contains("bad.mmdb cannot be used: "), "{}", problems[0]);
        assert!(problems[1].message.contains("cuntry"), "{}", problems[1]);
    }
}
