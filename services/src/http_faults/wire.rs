//! The client's connection, plain or within TLS.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::Certificates;

/// Read and written in turn: whoever reads requests and whoever answers them share it.
pub(super) enum Wire<'a> {
    Plain(&'a TcpStream),
    Tls(RefCell<Box<StreamOwned<ServerConnection, &'a TcpStream>>>),
}

impl<'a> Wire<'a> {
    pub(super) fn new(stream: &'a TcpStream, tls: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        let Some(config) = tls else { return Ok(Self::Plain(stream)) };
        let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Self::Tls(RefCell::new(Box::new(StreamOwned::new(connection, stream)))))
    }
}

impl Read for &Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => (&**stream).read(into),
            Wire::Tls(stream) => stream.borrow_mut().read(into),
        }
    }
}

impl Write for &Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => (&**stream).write(bytes),
            Wire::Tls(stream) => stream.borrow_mut().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => (&**stream).flush(),
            Wire::Tls(stream) => stream.borrow_mut().flush(),
        }
    }
}

/// What a server with these certificates says of itself.
pub(super) fn identity(certificates: &Certificates) -> io::Result<Arc<ServerConfig>> {
    let (certificate, key) = certificates.server();
    let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = config.with_no_client_auth().with_single_cert(chain, key).map_err(io::Error::other)?;
    Ok(Arc::new(config))
}
