package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestRefusalsAreReadable: clients that send a whole large body before they read still receive the
// refusal, over plain connections, TLS and HTTP/2.
func TestRefusalsAreReadable(t *testing.T) {
	t.Parallel()
	api := newStage(t)
	plain := start(t, api.URL, filepath.Join(t.TempDir(), "plain.db"))
	cert, key := newCertificate(t)
	address := freeAddress(t)
	secure := launch(t, append(serveArgs(address, api.URL, filepath.Join(t.TempDir(), "secure.db")), "--tls", "cert="+cert+",key="+key)...)
	secure.await(t, `"msg":"ready"`)

	venv := filepath.Join(t.TempDir(), "venv")
	requirements, err := filepath.Abs("clients/refusals/requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	program, err := filepath.Abs("clients/refusals/main.py")
	if err != nil {
		t.Fatal(err)
	}
	var printed []byte
	for _, step := range [][]string{
		{"python3", "-m", "venv", venv},
		{filepath.Join(venv, "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--requirement", requirements},
		{filepath.Join(venv, "bin/python"), program, plain.base, "https://" + address},
	} {
		if printed, err = exec.CommandContext(t.Context(), step[0], step[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", step, err, printed)
		}
	}
	if len(printed) > 0 {
		t.Errorf("%s", printed)
	}
}

// newCertificate creates a self-signed certificate for this machine.
func newCertificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
