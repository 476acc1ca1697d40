//! Proxies in front of real registries: nginx and tinyproxy.

use std::fs;
use std::path::Path;

use super::daemon::Daemon;
use super::real;

/// Starts nginx with this `server` block, in which `{port}` and `{folder}` stand for the port and the folder of its files.
/// Reports and returns `None` if nginx is not installed.
pub fn nginx(what: &str, server: &str) -> Option<Daemon> {
    let program = real::program("nginx", what)?;
    let configure = |folder: &Path, port: u16| {
        let at = folder.display().to_string();
        let server = server.replace("{port}", &port.to_string()).replace("{folder}", &at);
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("  {name}_temp_path {at}/{name};\n"))
            .concat();
        let user = if is_root() { "user root;\n" } else { "" };
        let text = format!(
            "daemon off;\nmaster_process off;\n{user}pid {at}/pid;\nerror_log {at}/log warn;\nevents {{}}\n\
             http {{\n  access_log {at}/access;\n{temporary}  server {{\n{server}\n  }}\n}}\n"
        );
        fs::write(folder.join("nginx.conf"), text).unwrap();
        ["-p", &at, "-c", "nginx.conf"].map(str::to_owned).to_vec()
    };
    Some(Daemon::start(&program, configure))
}

/// Returns whether this process is root. nginx started by root would change to another user.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|of| of.uid() == 0)
}

/// Returns the configuration that forwards all requests to a server.
pub fn pass_to(host: &str) -> String {
    format!("location / {{ proxy_pass http://{host}; proxy_set_header Host $http_host; proxy_http_version 1.1; }}")
}

/// Starts tinyproxy with a login for this user. Reports and returns `None` if tinyproxy is not installed.
pub fn tinyproxy(what: &str, user: &str, password: &str) -> Option<Daemon> {
    let program = real::program("tinyproxy", what)?;
    let configure = |folder: &Path, port: u16| {
        let file = folder.join("tinyproxy.conf");
        let text = format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nLogLevel Info\nBasicAuth {user} {password}\n\
             LogFile \"{}\"\n",
            folder.join("access").display()
        );
        fs::write(&file, text).unwrap();
        vec!["-d".to_owned(), "-c".to_owned(), file.display().to_string()]
    };
    Some(Daemon::start(&program, configure))
}
