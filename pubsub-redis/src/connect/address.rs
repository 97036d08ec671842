//! From a configuration to addresses that the driver knows.

use std::path::PathBuf;
use std::{fs, time::Duration};

use pubsub_core::{Error, Result};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError, TlsCertificates,
};

use crate::config::{Deployment, RedisConfig};
use crate::error::kind_of;

/// Where a deployment is.
#[derive(Clone, Debug)]
pub(crate) enum Places {
    Server(ConnectionInfo),
    Sentinels { addresses: Vec<ConnectionInfo>, master: String, servers: Servers },
    Cluster { seeds: Vec<ConnectionInfo>, servers: Servers },
}

impl Places {
    /// As whom the servers are asked.
    pub(crate) fn user(&self) -> Option<&str> {
        let (Self::Server(info)
        | Self::Sentinels { servers: Servers { like: info }, .. }
        | Self::Cluster { servers: Servers { like: info }, .. }) = self;
        info.redis_settings().username()
    }
}

/// How servers are reached that others tell of: as those that were configured.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    like: ConnectionInfo,
}

impl Servers {
    pub(crate) fn at(&self, host: &str, port: u16) -> ConnectionInfo {
        let host = host.to_owned();
        let addr = match self.like.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.like.clone().set_addr(addr)
    }
}

/// Reaches nothing; reads the files that are named.
pub(crate) fn places(config: &RedisConfig) -> Result<Places> {
    let certificates = certificates(config)?;
    let servers = config
        .urls()
        .iter()
        .map(|url| address(url, config, certificates.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let first = servers.first().ok_or_else(|| Error::invalid("urls takes at least one URL"))?;
    let like = Servers { like: first.clone() };
    if *config.deployment() != Deployment::Standalone {
        let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        let is_socket = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::Unix(_));
        if servers.iter().any(|info| is_socket(info) || is_tls(info) != is_tls(first)) {
            let text = "sentinels and nodes of a cluster take URLs that are all redis:// or all rediss://";
            return Err(Error::invalid(text).with("setting", "urls"));
        }
    }
    Ok(match config.deployment() {
        Deployment::Standalone if servers.len() > 1 => {
            let text = "more than one URL takes a deployment that is Sentinel or Cluster";
            return Err(Error::invalid(text).with("setting", "deployment"));
        }
        Deployment::Standalone => Places::Server(first.clone()),
        Deployment::Sentinel { master } => {
            let mut own = RedisConnectionInfo::default();
            if let Some(user) = config.sentinel_user() {
                own = own.set_username(user);
            }
            if let Some(password) = config.sentinel_password() {
                own = own.set_password(password);
            }
            let addresses = servers.iter().map(|info| info.clone().set_redis_settings(own.clone())).collect();
            Places::Sentinels { addresses, master: master.clone(), servers: like }
        }
        Deployment::Cluster => Places::Cluster { seeds: servers, servers: like },
    })
}

fn address(
    url: &str,
    config: &RedisConfig,
    certificates: Option<&TlsCertificates>,
) -> Result<ConnectionInfo> {
    // The driver's own text may repeat the URL, and with it a password.
    let malformed = |error: &RedisError| {
        Error::new(
            kind_of(error),
            "this is no URL of a Redis server; it takes redis://[user[:password]@]host[:port][/database], \
             rediss://… with TLS, or redis+unix:///path; what means something in a URL is percent-encoded in a password",
        )
        .with("setting", "urls")
    };
    let mut info = url.into_connection_info().map_err(|error| malformed(&error))?;
    if let ConnectionAddr::TcpTls { insecure: true, .. } = info.addr() {
        let text =
            "a server's certificate is always checked: with_ca takes the authority that vouches for it";
        return Err(Error::invalid(text).with("setting", "urls"));
    }
    let mut settings = info.redis_settings().clone();
    if let Some(user) = config.user() {
        settings = settings.set_username(user);
    }
    if let Some(password) = config.password() {
        settings = settings.set_password(password);
    }
    info = info.set_redis_settings(settings).set_tcp_settings(tcp_settings());
    if let ConnectionAddr::TcpTls { .. } = info.addr() {
        cryptography();
        if let Some(certificates) = certificates {
            let made = Client::build_with_tls(info, certificates.clone())
                .map_err(|error| Error::invalid("a certificate or key cannot be used").with_source(error))?;
            info = made.get_connection_info().clone();
        }
    } else if certificates.is_some() {
        let text = "a CA or a certificate takes a URL with TLS: rediss://…";
        return Err(Error::invalid(text).with("setting", "urls"));
    }
    Ok(info)
}

fn tcp_settings() -> TcpSettings {
    // A blocked read has nothing to send: without probes it would never learn that its server is gone.
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

/// The driver takes the cryptography of the process; where the program chose none, it is ring's.
fn cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may have been faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
}

fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>> {
    if config.ca().is_none() && config.certificate().is_none() {
        return Ok(None);
    }
    let read = |setting: &'static str, file: &PathBuf| {
        fs::read(file).map_err(|error| {
            let message = format!("{setting} cannot be read");
            Error::invalid(message).with("file", file.display()).with_source(error)
        })
    };
    let client_tls = match config.certificate() {
        None => None,
        Some((certificate, key)) => Some(ClientTlsConfig {
            client_cert: read("certificate", certificate)?,
            client_key: read("key", key)?,
        }),
    };
    let root_cert = config.ca().map(|file| read("ca", file)).transpose()?;
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}
