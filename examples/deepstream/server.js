// Starts one deepstream server of the cluster: node server.js NAME PORT [OPTIONS]
// The options are those of the cluster node, as JSON: '{"url": "redis://127.0.0.1:6379"}'
'use strict'

const path = require('node:path')
const { Deepstream } = require('@deepstream/server')

const [name, port, options = '{}'] = process.argv.slice(2)
const server = new Deepstream({
  serverName: name,
  httpServer: { type: 'default', options: { host: '127.0.0.1', port: Number(port) } },
  connectionEndpoints: [{ type: 'ws-binary', options: { urlPath: '/deepstream' } }],
  clusterNode: { path: path.join(__dirname, 'cluster-node.js'), options: JSON.parse(options) }
})
process.on('SIGTERM', () => server.stop())
server.on('stopped', () => process.exit())
server.start()
