module github.com/sheafapi/sheaf/integration

go 1.26.0

replace github.com/sheafapi/sheaf => ../

require github.com/mccutchen/go-httpbin/v2 v2.26.0
