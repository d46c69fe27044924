// Starts one deepstream server of the cluster: node server.js NAME PORT REDIS_URL
'use strict'

const path = require('node:path')
const { Deepstream } = require('@deepstream/server')

const [name, port, url] = process.argv.slice(2)
const server = new Deepstream({
  serverName: name,
  httpServer: { type: 'default', options: { host: '127.0.0.1', port: Number(port) } },
  connectionEndpoints: [{ type: 'ws-binary', options: { urlPath: '/deepstream' } }],
  clusterNode: { path: path.join(__dirname, 'cluster-node.js'), options: { url } }
})
process.on('SIGTERM', () => server.stop())
server.on('stopped', () => process.exit())
server.start()
