//! Probes against real servers on loopback: what is good, what is not, and how long it may take.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use super::*;
use crate::{
    model::{HttpProbe, NetworkMode},
    worker::testing::{FakeWorld, a_task},
};

fn clock() -> Timestamp {
    Timestamp(7)
}

fn prober() -> Prober {
    Prober::new(FakeWorld::default().agent(), clock)
}

/// A task whose ports are the node's.
fn here() -> Task {
    let mut task = a_task(1);
    task.spec.network = NetworkMode::Host;
    task
}

fn check(probe: Probe) -> Check {
    Check {
        probe,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(400),
        retries: 1,
        start_period: Duration::ZERO,
        start_interval: Duration::from_secs(1),
    }
}

fn http(port: u16, path: &str) -> HttpProbe {
    HttpProbe {
        https: false,
        port,
        path: path.into(),
        method: "GET".into(),
        headers: Vec::new(),
        statuses: Vec::new(),
    }
}

/// A server that answers every request with `answer`, after a while, and keeps what it was asked.
fn server(answer: &'static [u8], after: Duration) -> (u16, Arc<std::sync::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(std::sync::Mutex::new(String::new()));
    let told = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let told = told.clone();
            thread::spawn(move || {
                let mut lines = BufReader::new(&stream);
                let mut request = String::new();
                while !request.ends_with("\r\n\r\n") && lines.read_line(&mut request).unwrap_or(0) > 0 {}
                told.lock().unwrap().push_str(&request);
                thread::sleep(after);
                let _ = (&stream).write_all(answer);
            });
        }
    });
    (port, asked)
}

async fn known(check: &Check) -> ProbeResult {
    match prober().probe(&here(), 1, check).await {
        Tried::Known(result) => result,
        Tried::Unknown(why) => panic!("{why}"),
    }
}

#[tokio::test]
async fn a_request_is_as_it_was_asked_for_and_its_status_decides() {
    const MOVED: &[u8] = b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 4\r\n\r\nbye\n";
    let (port, asked) = server(MOVED, Duration::ZERO);
    let mut probe = http(port, "/ready?full=1");
    let good = known(&check(Probe::Http(probe.clone()))).await;
    assert_eq!((good.good, good.code, good.output.as_str()), (true, 302, "302 Found\nbye"));
    let request = std::mem::take(&mut *asked.lock().unwrap());
    assert!(request.starts_with("GET /ready?full=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{request}");
    assert!(!request.contains("GET /x"), "a redirect is an answer");

    probe.method = "HEAD".into();
    probe.headers = vec![("Host".into(), "example.org".into()), ("X-Probe".into(), "yes".into())];
    probe.statuses = vec![(200, 299), (404, 404)];
    let bad = known(&check(Probe::Http(probe))).await;
    assert_eq!((bad.good, bad.code), (false, 302));
    let request = asked.lock().unwrap().clone();
    assert!(request.starts_with("HEAD /ready?full=1 HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains("Host: example.org\r\n") || request.contains("host: example.org\r\n"),
        "{request}"
    );
    assert!(request.to_lowercase().contains("x-probe: yes\r\n"), "{request}");
}

#[tokio::test]
async fn nobody_there_no_answer_and_rubbish_are_failures_with_a_sentence() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = known(&check(Probe::Tcp(free))).await;
    assert_eq!(
        (refused.good, refused.output),
        (false, format!("cannot connect to 127.0.0.1:{free}: connection refused"))
    );
    assert!(!known(&check(Probe::Http(http(free, "/")))).await.good);

    let (slow, _) = server(b"HTTP/1.1 200 OK\r\n\r\n", Duration::from_secs(5));
    let late = known(&check(Probe::Http(http(slow, "/")))).await;
    assert_eq!((late.good, late.output.as_str()), (false, "no answer within 400ms"));
    assert!(late.took >= Duration::from_millis(400) && late.took < Duration::from_secs(3), "{:?}", late.took);
    assert!(known(&check(Probe::Tcp(slow))).await.good, "its port is open");

    let (rubbish, _) = server(b"SSH-2.0-OpenSSH\r\n", Duration::ZERO);
    let bad = known(&check(Probe::Http(http(rubbish, "/")))).await;
    assert!(!bad.good && bad.output.starts_with("no HTTP answer: "), "{}", bad.output);
    let bad = known(&check(Probe::Http(HttpProbe { https: true, ..http(rubbish, "/") }))).await;
    assert!(!bad.good && bad.output.starts_with("no TLS with "), "{}", bad.output);
}

#[tokio::test]
async fn of_a_long_answer_the_beginning_is_kept() {
    let body: &'static str = Box::leak("€".repeat(100_000).into_boxed_str());
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (port, _) = server(Box::leak(answer.into_boxed_str()).as_bytes(), Duration::ZERO);
    let result = known(&check(Probe::Http(http(port, "/")))).await;
    assert!(result.good);
    assert!(
        result.output.len() <= MAX_OUTPUT && result.output.len() > MAX_OUTPUT - 8,
        "{}",
        result.output.len()
    );
}

#[tokio::test]
async fn programs_that_do_not_run_are_failures_and_a_runtime_that_is_away_is_none() {
    let (world, task) = (FakeWorld::default(), a_task(1));
    let prober = Prober::new(world.agent(), clock);
    let check = check(Probe::Command(vec!["/probe".into()]));
    let Tried::Known(result) = prober.probe(&task, 1, &check).await else { panic!() };
    assert_eq!((result.good, result.output.as_str()), (false, "the container does not run"));
    world.set_away(true);
    let tried = prober.probe(&task, 1, &check).await;
    assert_eq!(tried, Tried::Unknown("containerd does not answer".into()));
}

#[tokio::test]
async fn probes_that_hang_do_not_delay_others() {
    let (slow, _) = server(b"", Duration::from_secs(60));
    let (quick, _) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Duration::ZERO);
    let prober = Arc::new(prober());
    let hanging = Check { timeout: Duration::from_secs(60), ..check(Probe::Http(http(slow, "/"))) };
    let mut all = Vec::new();
    for _ in 0..REQUESTS {
        let (prober, check) = (prober.clone(), hanging.clone());
        all.push(tokio::spawn(async move { prober.probe(&here(), 1, &check).await }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    let check = check(Probe::Http(http(quick, "/")));
    let Tried::Known(result) = prober.probe(&here(), 1, &check).await else { panic!() };
    assert!(result.good);
    assert!(result.took < Duration::from_millis(400), "waiting for a turn is not its time");
    assert!(begun.elapsed() < HELD + Duration::from_secs(2), "{:?}", begun.elapsed());
    all.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
#[ignore = "needs root"]
async fn a_container_without_network_is_reached_in_its_own_namespace() {
    // A process in a namespace of its own, with a server on its loopback.
    let mut child = std::process::Command::new("unshare")
        .args([
            "--net",
            "sh",
            "-c",
            "ip link set lo up && exec python3 -u -m http.server 8099 --bind 127.0.0.1",
        ])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut task = here();
    task.spec.network = NetworkMode::None;
    let (prober, check) = (prober(), check(Probe::Http(http(8099, "/"))));
    let tries = AtomicU32::new(0);
    let result = loop {
        let Tried::Known(result) = prober.probe(&task, child.id(), &check).await else { panic!() };
        if result.good || tries.fetch_add(1, Ordering::Relaxed) > 100 {
            break result;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    child.kill().unwrap();
    let mut said = String::new();
    let _ = child.stderr.take().unwrap().read_to_string(&mut said);
    child.wait().unwrap();
    assert!(result.good, "{}: {said}", result.output);
    task.spec.network = NetworkMode::Host;
    let Tried::Known(result) = prober.probe(&task, 1, &check).await else { panic!() };
    assert!(!result.good, "it is not on the node's own loopback");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_good_enough() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let cert = CertificateDer::from_pem_slice(include_bytes!("testdata/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("testdata/key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"GET / HTTP/1.1\r\n"));
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    let good = known(&check(Probe::Http(HttpProbe { https: true, ..http(port, "/") }))).await;
    assert_eq!((good.good, good.code), (true, 204), "{}", good.output);
    let bad = known(&check(Probe::Http(http(port, "/")))).await;
    assert!(!bad.good, "without TLS there is no answer: {}", bad.output);
    serving.abort();
}
