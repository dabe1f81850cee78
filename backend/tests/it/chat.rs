//! The files of the chat page as a browser gets them. What the page does is tested in a browser, in `bench`.

use tempfile::TempDir;

use crate::process::{Im, request};

async fn get(im: &Im, path: &str, headers: &str) -> crate::process::Answer {
    request(im.address, &format!("GET {path} HTTP/1.1\r\nHost: im\r\nConnection: close\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn the_page_comes_with_its_policy_and_is_asked_for_again_cheaply() {
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &[]).await;
    for (path, kind) in [
        ("/chat/", "text/html; charset=utf-8"),
        ("/chat/app.js", "text/javascript; charset=utf-8"),
        ("/chat/style.css", "text/css; charset=utf-8"),
        ("/chat/icon.svg", "image/svg+xml"),
    ] {
        let page = get(&im, path, "").await;
        let header = |name: &str| page.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        assert_eq!((page.status, header("content-type")), (200, Some(kind)), "{path}");
        assert!(header("content-security-policy").unwrap().starts_with("default-src 'none'; script-src 'self'"));
        assert_eq!((header("cache-control"), header("x-content-type-options")), (Some("no-cache"), Some("nosniff")));
        // Tags are told apart by case; the head is in lower case here.
        let tag = original_tag(&im, path).await;
        let same = get(&im, path, &format!("If-None-Match: \"other\", W/{tag}\r\n")).await;
        assert_eq!((same.status, same.body.as_str()), (304, ""));
        assert_eq!(get(&im, path, "If-None-Match: \"other\"\r\n").await.body, page.body);
    }
}

async fn original_tag(im: &Im, path: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(im.address).await.unwrap();
    let head = format!("HEAD {path} HTTP/1.1\r\nHost: im\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned()
}

#[tokio::test]
async fn what_is_no_file_of_the_page_is_not_there() {
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &[]).await;
    let moved = get(&im, "/chat", "").await;
    assert!(moved.status == 308 && moved.head.contains("\r\nlocation: /chat/"), "{}", moved.head);
    for path in ["/chat/nothing.js", "/chat/../chat/app.js", "/chatter"] {
        assert_eq!(get(&im, path, "").await.status, 404, "{path}");
    }
    assert_eq!(im.post("/chat/", "").await.status, 405);
}
