//! Throw-away certificates in the files QEMU looks for.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

pub const PEER_NAME: &str = "host-b";

/// A directory with a new authority, and a certificate of it for both directions.
pub fn credentials(root: &Path, name: &str) -> PathBuf {
    let dir = root.join(name);
    std::fs::create_dir(&dir).expect("mkdir");
    let authority_key = KeyPair::generate().expect("key");
    let mut authority = CertificateParams::new(Vec::new()).expect("params");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority.self_signed(&authority_key).expect("sign");
    let issuer = Issuer::new(authority, authority_key);
    write(&dir, "ca-cert.pem", &certificate.pem());

    let leaf_key = KeyPair::generate().expect("key");
    let mut leaf = CertificateParams::new(vec![PEER_NAME.to_owned()]).expect("params");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&leaf_key, &issuer).expect("sign");
    for role in ["server", "client"] {
        write(&dir, &format!("{role}-cert.pem"), &leaf.pem());
        write(&dir, &format!("{role}-key.pem"), &leaf_key.serialize_pem());
    }
    super::hand_to_qemu(&dir);
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("write");
    super::hand_to_qemu(&path);
}
