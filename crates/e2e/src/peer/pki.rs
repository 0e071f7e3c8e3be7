//! Throw-away certificates in the files QEMU looks for.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The name in the certificate.
pub const PEER_NAME: &str = "peer";

/// Fills `directory` with a new authority and a certificate of it for both directions, for `owner`.
pub fn write(directory: &Path, owner: u32) -> Result<()> {
    fs::create_dir_all(directory)?;
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);
    let leaf_key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec![PEER_NAME.to_owned()])?;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = leaf.signed_by(&leaf_key, &issuer)?;
    let (leaf, key) = (leaf.pem(), leaf_key.serialize_pem());
    let files = [
        ("ca-cert.pem", certificate.pem()),
        ("dh-params.pem", gantry_trust::DH_PARAMETERS.to_owned()),
        ("server-cert.pem", leaf.clone()),
        ("server-key.pem", key.clone()),
        ("client-cert.pem", leaf),
        ("client-key.pem", key),
    ];
    for (name, text) in files {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        chown(&path, Some(owner), Some(owner))?;
    }
    Ok(chown(directory, Some(owner), Some(owner))?)
}
