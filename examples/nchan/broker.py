"""How nginx is started for the tests, with its module Nchan; the user `reader` may not publish."""

from .contract.public import Server, find_program

CONFIGURATION = """
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path .; fastcgi_temp_path .; proxy_temp_path .; scgi_temp_path .; uwsgi_temp_path .;
    client_max_body_size 2m;
    auth_basic nodes;
    auth_basic_user_file all;
    server {{
        listen 127.0.0.1:{port};
        nchan_channel_id $1;
        nchan_subscriber_first_message newest;
        location ~ ^/pub/(.+)$ {{ nchan_publisher; auth_basic_user_file publishers; }}
        location ~ ^/sub/(.+)$ {{ nchan_subscriber websocket; }}
        location = /ping {{ empty_gif; }}
    }}
}}
"""


class Broker(Server):
    """nginx on one port, with its files in a folder of its own."""

    def command(self) -> list[str]:
        (self.folder / "publishers").write_text("node:{PLAIN}s3cr3t\n")
        (self.folder / "all").write_text("node:{PLAIN}s3cr3t\nreader:{PLAIN}s3cr3t\n")
        (self.folder / "nginx.conf").write_text(CONFIGURATION.format(port=self.port))
        program = find_program("nginx", "apt-get install nginx-light libnginx-mod-nchan", "/usr/sbin")
        return [program, "-p", str(self.folder), "-c", "nginx.conf"]

    @property
    def url(self) -> str:
        return f"http://node:s3cr3t@127.0.0.1:{self.port}"
