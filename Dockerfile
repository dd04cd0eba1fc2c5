# The whole of Fleetsight on one machine, as ./scripts/run.sh runs it, with its state in the volume /state.
# docs/first-batch.md says how to reach the page, and what a read-only root file system needs.

FROM python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin fleetsight \
    && install --directory --owner 10001 --group 10001 --mode 0700 /state
WORKDIR /opt/fleetsight
# Neither the build nor the system writes compiled files, but for compileall.
ENV PYTHONDONTWRITEBYTECODE=1
RUN python -m venv --without-pip .venv
COPY requirements/run.txt requirements/photos.txt requirements/
# Only files with a hash in that section are installed, as by scripts/setup.sh.
RUN python -m pip --python .venv/bin/python install --disable-pip-version-check --no-input --no-cache-dir \
       --no-compile --require-hashes --no-deps -r requirements/run.txt
# Optional, since an index may lack it: without it, the demo model serves alone.
RUN python -m pip --python .venv/bin/python install --disable-pip-version-check --no-input --no-cache-dir \
       --no-compile --require-hashes --no-deps -r requirements/photos.txt || true
# Nothing is compiled at run time, when the file system is read-only. Some packages have files for other Pythons, and
# nothing imports their tests.
RUN .venv/bin/python -m compileall -qq --workers 0 -x '/tests/' .venv/lib || true
COPY config.yaml pyproject.toml ./
COPY ami/ ami/
COPY app_tier/ app_tier/
COPY client/fleetsight_client/ fleetsight_client/
COPY core/ core/
COPY infra/ infra/
COPY localcloud/ localcloud/
COPY scripts/ scripts/
COPY services/ services/
COPY web_tier/ web_tier/
RUN .venv/bin/python -m compileall -q ami app_tier core fleetsight_client localcloud scripts services web_tier
ENV PATH=/opt/fleetsight/.venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    FLEETSIGHT_HOME=/tmp/fleetsight \
    FLEETSIGHT__WEB__HOST=0.0.0.0 \
    FLEETSIGHT__WEB__PORT=8000
USER 10001:10001
VOLUME /state
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['FLEETSIGHT__WEB__PORT'] + '/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "scripts.run"]
CMD ["--no-batch", "--state", "/state"]
