//! Certificates for one test: an authority, a server and a client that it vouches for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::install::installed;

/// What openssl is told about both kinds of certificates.
const SETTINGS: &str = "\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign
[leaf]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost,IP:127.0.0.1
extendedKeyUsage = serverAuth,clientAuth
";

/// Files of certificates and keys, in PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them in this folder, for `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// Where openssl cannot be had or fails.
    pub fn make(folder: &Path) -> io::Result<Self> {
        installed("openssl", &["openssl"])?;
        fs::write(folder.join("settings"), SETTINGS)?;
        let made = Self { folder: folder.to_owned() };
        made.one("authority", "authority", &[])?;
        for name in ["server", "client"] {
            made.one(name, "leaf", &["-CA", "authority.pem", "-CAkey", "authority.key"])?;
        }
        Ok(made)
    }

    fn one(&self, name: &str, kind: &str, signed: &[&str]) -> io::Result<()> {
        let (key, certificate, subject) =
            (format!("{name}.key"), format!("{name}.pem"), format!("/CN=pipeline {name}"));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-config", "settings", "-extensions", kind, "-days", "2"])
            .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-keyout", &key, "-out", &certificate, "-subj", &subject])
            .args(signed)
            .current_dir(&self.folder)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("openssl: {}", String::from_utf8_lossy(&output.stderr))))
    }

    /// The authority, by which both are known.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// The certificate and the key of the server.
    #[must_use]
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("server.pem"), self.folder.join("server.key"))
    }

    /// The certificate and the key of a client.
    #[must_use]
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("client.pem"), self.folder.join("client.key"))
    }
}
