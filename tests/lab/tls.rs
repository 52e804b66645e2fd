//! A TLS server on this machine that guests reach, with a certificate that is valid from the moment at which it is made.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends when dropped.
pub struct TlsServer {
    child: Child,
    pub port: u16,
    /// In PEM; signed by itself.
    pub certificate: String,
}

impl TlsServer {
    /// Its files go below `folder`.
    pub fn start(folder: &Path) -> Self {
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes".split(' '))
            .args("-keyout tls.key -out tls.pem -days 1 -subj /CN=lab".split(' '))
            // This machine as QEMU's guests see it.
            .args(["-addext", "subjectAltName=IP:10.0.2.2"])
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let mut child = Command::new("openssl")
            .args("s_server -accept 127.0.0.1:0 -cert tls.pem -key tls.key -www".split(' '))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.map_while(Result::ok).find_map(|line| {
            let address = line.strip_prefix("ACCEPT ")?.to_owned();
            address.rsplit(':').next()?.parse().ok()
        });
        TlsServer {
            child,
            port: port.expect("openssl names its port"),
            certificate: std::fs::read_to_string(folder.join("tls.pem")).unwrap(),
        }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
