module github.com/sheafapi/sheaf/bench

go 1.26.0
