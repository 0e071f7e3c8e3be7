//! What the CA signs, what it refuses, and what its files survive.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;

use crate::installation::Installation;
use gantry_trust::{
    CertificateAuthority, Identity, KeyRequest, LEAF_LIFETIME, LeafNames, PeerIdentity, Role, TrustError,
};
use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

fn der(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn host_names() -> LeafNames {
    let identity = PeerIdentity::new(Role::Host, "h1".parse().unwrap());
    LeafNames::new(identity, &[Ipv4Addr::new(10, 0, 0, 7).into()])
}

#[test]
fn request_with_bogus_names_gets_only_what_the_ca_decides() {
    let installation = Installation::new();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut greedy = CertificateParams::new(vec!["controller.example".to_owned()]).unwrap();
    let uri = "gantry:controller/c1".try_into().unwrap();
    greedy.subject_alt_names.push(SanType::URI(uri));
    greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let now = Timestamp::now();
    let pem = installation.authority.issue(&request, &host_names(), LEAF_LIFETIME, now).unwrap();
    let der = der(&pem);
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(!certificate.is_ca());
    let peer = PeerIdentity::from_certificate(&der).unwrap();
    assert_eq!(peer.to_string(), "gantry:host/h1");
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let expected =
        [GeneralName::URI("gantry:host/h1"), GeneralName::DNSName("h1"), GeneralName::IPAddress(&[10, 0, 0, 7])];
    assert_eq!(names.value.general_names, expected);
    let validity = certificate.validity();
    assert_eq!(validity.not_before.timestamp(), now.as_second() - 300);
    assert_eq!(validity.not_after.timestamp(), now.as_second() + 90 * 86_400);
}

#[test]
fn foreign_keys_damaged_requests_and_bad_names_are_refused() {
    let installation = Installation::new();
    let authority = &installation.authority;
    let now = Timestamp::now();
    let refused = |request: &str, names: &LeafNames| authority.issue(request, names, LEAF_LIFETIME, now).unwrap_err();
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let request = CertificateParams::default().serialize_request(&ed25519).unwrap();
    let error = refused(&request.pem().unwrap(), &host_names());
    assert!(error.to_string().contains("P-256"), "{error}");

    let good = KeyRequest::generate().unwrap();
    for length in [0, 10, good.request_pem().len() / 2] {
        refused(&good.request_pem()[..length], &host_names());
    }
    refused(&"x".repeat(1 << 20), &host_names());
    // Proof of possession: a request whose signature is of another key.
    let other = KeyRequest::generate().unwrap();
    let (mine, theirs) = (der(good.request_pem()), der(other.request_pem()));
    let mut spliced = mine.clone();
    let tail = mine.len() - 40;
    spliced[tail..].copy_from_slice(&theirs[theirs.len() - 40..]);
    refused(&pem_request(&spliced), &host_names());

    let ended = now + SignedDuration::from_hours(24 * 3651);
    let error = authority.issue(good.request_pem(), &host_names(), LEAF_LIFETIME, ended).unwrap_err();
    assert!(error.to_string().contains("CA itself expired"), "{error}");

    let mut names = host_names();
    names.dns_names.push("evil\nname".into());
    refused(good.request_pem(), &names);
}

fn pem_request(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn serials_differ_and_leaves_never_outlive_the_ca() {
    let installation = Installation::new();
    let now = Timestamp::now();
    let first = installation.issue(Role::Host, "h1", now);
    let second = installation.issue(Role::Host, "h1", now);
    let serial = |identity: &Identity| {
        let der = der(identity.certificate_pem());
        X509Certificate::from_der(&der).unwrap().1.raw_serial().to_vec()
    };
    assert_ne!(serial(&first), serial(&second));
    assert!(!first.needs_renewal(now));
    assert!(first.needs_renewal(now + SignedDuration::from_hours(24 * 61)));

    let late = now + SignedDuration::from_hours(24 * (3650 - 10));
    let last = installation.issue(Role::Host, "h1", late);
    let ca_end = now.as_second() + 3650 * 86_400;
    assert_eq!(last.expires().as_second(), ca_end);
}

#[test]
fn ca_is_loaded_again_and_never_overwritten() {
    let installation = Installation::new();
    let directory = installation.directory.path().join("ca");
    let mode = fs::metadata(directory.join("ca-key.pem")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = CertificateAuthority::load(&directory).unwrap();
    assert_eq!(again.fingerprint(), installation.authority.fingerprint());
    let error = CertificateAuthority::create(&directory, Timestamp::now()).err().unwrap();
    assert!(matches!(error, TrustError::AuthorityExists { .. }), "{error}");
    assert_eq!(CertificateAuthority::load(&directory).unwrap().fingerprint(), installation.authority.fingerprint());
    // An interrupted creation: the key was written, the certificate was not.
    fs::remove_file(directory.join("ca-cert.pem")).unwrap();
    assert!(CertificateAuthority::load(&directory).is_err());
    let created = CertificateAuthority::create(&directory, Timestamp::now()).unwrap();
    assert_ne!(created.fingerprint(), installation.authority.fingerprint());
}

#[test]
fn ca_load_refuses_exposed_cut_and_foreign_keys_and_says_so() {
    let installation = Installation::new();
    let directory = installation.directory.path().join("ca");
    let key_path = directory.join("ca-key.pem");
    let load_error = || CertificateAuthority::load(&directory).err().unwrap().to_string();

    fs::set_permissions(&key_path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = load_error();
    assert!(error.contains("its mode is 640") && error.contains("chmod 600"), "{error}");
    fs::set_permissions(&key_path, fs::Permissions::from_mode(0o600)).unwrap();

    let key = fs::read_to_string(&key_path).unwrap();
    for length in [0, 1, key.len() / 2, key.len() - 30] {
        fs::write(&key_path, &key[..length]).unwrap();
        let error = load_error();
        assert!(error.contains("ca-key.pem is not usable"), "{error}");
        assert!(error.contains("backup"), "{error}");
    }
    let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    fs::write(&key_path, other.serialize_pem()).unwrap();
    assert!(load_error().contains("doesn't belong to"), "{}", load_error());
    fs::write(&key_path, key).unwrap();
    CertificateAuthority::load(&directory).unwrap();
}

#[test]
fn identity_survives_the_disk_and_refuses_foreign_certificates() {
    let installation = Installation::new();
    let directory = installation.directory.path().join("identity");
    let now = Timestamp::now();
    let identity = installation.issue(Role::Host, "h1", now);
    identity.save(&directory).unwrap();
    let loaded = Identity::load(&directory).unwrap();
    assert_eq!(loaded.peer(), identity.peer());
    assert_eq!(loaded.certificate_pem(), identity.certificate_pem());
    assert_eq!(loaded.ca_fingerprint(), installation.authority.fingerprint());
    // A renewal replaces key and certificate together.
    installation.issue(Role::Host, "h1", now).save(&directory).unwrap();
    Identity::load(&directory).unwrap();

    let stranger = KeyRequest::generate().unwrap();
    let ca_pem = installation.authority.certificate_pem();
    let error = stranger.into_identity(identity.certificate_pem(), ca_pem).err().unwrap();
    assert!(error.to_string().contains("don't belong together"), "{error}");

    let path = directory.join("identity.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = Identity::load(&directory).unwrap_err();
    assert!(matches!(error, TrustError::ExposedKey { .. }), "{error}");
}

#[test]
fn addresses_of_both_families_are_carried() {
    let installation = Installation::new();
    let addresses: Vec<IpAddr> = vec!["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let identity = PeerIdentity::new(Role::Qemu, "h1".parse().unwrap());
    let names = LeafNames::new(identity, &addresses);
    let issued = installation.authority.issue_identity(&names, LEAF_LIFETIME, Timestamp::now()).unwrap();
    let der = der(issued.certificate_pem());
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let found = names.value.general_names.iter();
    assert_eq!(found.filter(|name| matches!(name, GeneralName::IPAddress(_))).count(), 2);
}
