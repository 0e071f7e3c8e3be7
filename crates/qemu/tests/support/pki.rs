//! Throw-away certificates in the files QEMU looks for.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

pub const PEER_NAME: &str = "host-b";

/// The name of every peer's certificate as QEMU compares it.
pub const PEER_DN: &str = "CN=host-b,OU=qemu";

/// A directory with a new authority, and a certificate of it for both directions.
pub fn credentials(root: &Path, name: &str) -> PathBuf {
    credentials_of(root, &[(name, PEER_NAME)]).remove(0)
}

/// Directories with certificates of one new authority: a directory's name, and whose certificate it is.
pub fn credentials_of(root: &Path, holders: &[(&str, &str)]) -> Vec<PathBuf> {
    let authority_key = KeyPair::generate().expect("key");
    let mut authority = CertificateParams::new(Vec::new()).expect("params");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority.self_signed(&authority_key).expect("sign");
    let issuer = Issuer::new(authority, authority_key);
    let make = |(name, holder): &(&str, &str)| {
        let dir = root.join(name);
        std::fs::create_dir(&dir).expect("mkdir");
        write(&dir, "ca-cert.pem", &certificate.pem());
        write_leaf(&dir, holder, &issuer);
        super::hand_to_qemu(&dir);
        dir
    };
    holders.iter().map(make).collect()
}

fn write_leaf(dir: &Path, holder: &str, issuer: &Issuer<'_, KeyPair>) {
    let leaf_key = KeyPair::generate().expect("key");
    let mut leaf = CertificateParams::new(vec![holder.to_owned()]).expect("params");
    leaf.distinguished_name = DistinguishedName::new();
    leaf.distinguished_name.push(DnType::CommonName, holder);
    leaf.distinguished_name.push(DnType::OrganizationalUnitName, "qemu");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&leaf_key, issuer).expect("sign");
    for role in ["server", "client"] {
        write(dir, &format!("{role}-cert.pem"), &leaf.pem());
        write(dir, &format!("{role}-key.pem"), &leaf_key.serialize_pem());
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("write");
    super::hand_to_qemu(&path);
}
